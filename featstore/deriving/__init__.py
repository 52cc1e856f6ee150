"""Stores made from other stores: a subset, several in one, other shards, other numbers."""
