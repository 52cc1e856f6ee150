"""What is known before any image is read: grids, shards, devices, room on disk."""
