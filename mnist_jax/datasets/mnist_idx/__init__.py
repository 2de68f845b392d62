"""MNIST from the four original files, a dataset in the layout of tfds."""
