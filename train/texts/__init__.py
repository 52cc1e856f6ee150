"""Texts as tokens, and the vocabulary of a run."""
