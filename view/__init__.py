"""The explorer: looks at stores, their images and trained runs in a browser, on this machine."""
