"""The files of a store, one kind a module: bytes and their checks, no policy."""
