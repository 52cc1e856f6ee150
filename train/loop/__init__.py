"""The training loop, and what it takes: batches, optimizer, schedule, checkpoints, devices."""
