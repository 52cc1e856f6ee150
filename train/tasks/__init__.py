"""The tasks: VQA, visual entailment, captioning and pre-training."""
