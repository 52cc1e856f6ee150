"""Run folders: what lies in them, and how two runs compare."""
