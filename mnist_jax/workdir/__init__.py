"""A run on disk: config, checkpoints, history and result."""
