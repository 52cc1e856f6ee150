"""Grids of a store as tensors, and their scale."""
