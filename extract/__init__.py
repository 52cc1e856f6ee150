"""Images to grids: recipes, decoding, backbones, the plan, and the devices that walk it."""
