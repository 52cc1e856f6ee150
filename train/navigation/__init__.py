"""Vision-and-language navigation on the graphs of scanned houses."""
