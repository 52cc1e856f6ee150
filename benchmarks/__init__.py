"""Every speed or size we claim, against peers, printed as ratios."""
