"""Our store against its peers: the same records, written and read by each, in one run."""
