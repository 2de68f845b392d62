"""A run on disk: its config, checkpoints, history and result."""
