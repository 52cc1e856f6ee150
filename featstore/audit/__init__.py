"""Check a store, and remove what is broken in it."""
