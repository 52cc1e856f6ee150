"""Small trainers on cached grids: one shared loop, one room for each task."""
