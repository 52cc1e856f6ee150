"""Captioning: two stages, their scores, and captions of any image."""
