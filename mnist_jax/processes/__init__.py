"""Several processes as one training, and the signals that stop it."""
