"""Pictures of a run: its curves, and the attention of a model. Only they use matplotlib here."""
