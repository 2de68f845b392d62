"""A trained network as one file that needs nothing of this package."""
