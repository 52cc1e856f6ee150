"""Recipes: all that decides which pixels enter the backbone, and what of it is kept."""
