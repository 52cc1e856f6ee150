"""Models that read grids: answers to texts, and captions; their parts, settings and starts."""
