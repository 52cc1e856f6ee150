"""Stores between labs: serve, pull, push, sign and compare them."""
