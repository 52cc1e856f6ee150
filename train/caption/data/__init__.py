"""Images and their captions: files, vocabulary, examples."""
