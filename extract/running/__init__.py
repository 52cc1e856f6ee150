"""Shard tasks at work: on one device, on several, on a cluster."""
