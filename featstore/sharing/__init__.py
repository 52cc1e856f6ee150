"""Stores between labs: serve, pull, sign and compare them."""
