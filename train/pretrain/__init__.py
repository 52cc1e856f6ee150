"""Pre-training: a single-stream encoder over words and cells."""
