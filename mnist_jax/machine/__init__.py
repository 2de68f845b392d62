"""This computer's accelerator, packages and caches."""
