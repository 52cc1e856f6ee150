"""Recipe and plan of an extraction: pure functions, without images or a device."""
