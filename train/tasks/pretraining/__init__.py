"""Pre-training of the single-stream encoder on sentences about images."""
