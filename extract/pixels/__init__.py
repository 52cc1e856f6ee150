"""Image files to pixels: decoding, resizing, and the reasons for files that give none."""
