"""Models that write captions: their settings, their parts, one file each."""
