"""The four original files of MNIST, with a builder in tfds's layout."""
