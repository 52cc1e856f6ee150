"""Data sets: their files, the names of their images, and vocabularies."""
