"""A functional training pipeline for MNIST in JAX and Flax, meant to be read and copied."""

from mnist_jax.datasets import load_dataset

__version__ = "0.1.0"
__all__ = ["load_dataset"]
