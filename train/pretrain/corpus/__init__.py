"""Sentences about images, for pre-training: read, and made from the data sets' own files."""
