"""Find what is wrong with a store, and drop it."""
