"""Pictures of a run: its curves, and where a model looks. Only here does train use matplotlib."""
