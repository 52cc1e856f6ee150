"""Features of other programs: read into a store, and written from one."""
