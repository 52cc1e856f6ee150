"""Choosing an answer to a text about an image: what VQA and visual entailment share."""
