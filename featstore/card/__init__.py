"""The card of a store: one HTML page, README.md and croissant.json, all of the same facts."""
