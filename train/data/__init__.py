"""Readers of data sets: their files, the ids of their images, and vocabularies."""
