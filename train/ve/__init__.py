"""Visual entailment (SNLI-VE): data, metric, predictions."""
