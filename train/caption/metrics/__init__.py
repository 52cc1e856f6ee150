"""How good captions are: rewards for training, the published scores, and files of captions."""
