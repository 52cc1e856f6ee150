"""Models that read a text and a grid: their settings, their parts, one file each."""
