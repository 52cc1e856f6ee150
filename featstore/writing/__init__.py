"""Write a store, or add to one."""
