"""Image files to pixels: decoding, resizing, and what becomes of bad files."""
