"""The floor every other room stands on: errors and whole-file writes."""
