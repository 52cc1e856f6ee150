"""Visual question answering (VQA v2): data, model, metric."""
