"""What a store is and what its numbers are, for people and scripts."""
