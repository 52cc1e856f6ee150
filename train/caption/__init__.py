"""Captioning: data, models, decoding, metrics."""
