"""What sharing a store costs: copying, reading from a server, training on a URL, smaller stores."""
