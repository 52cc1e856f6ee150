"""Where shard tasks run: in this process, in one process for each device, or on a cluster."""
