"""From a model to captions: greedy, by beams, by chance."""
