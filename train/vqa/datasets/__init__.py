"""The data sets of questions about images, each read into the same `Split`."""
