"""Config, recipe and plan of an extraction: pure, without images or a device."""
