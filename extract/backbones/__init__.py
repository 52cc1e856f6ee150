"""open_clip's image towers, their weights, and grids of any size."""
