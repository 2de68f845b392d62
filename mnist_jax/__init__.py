"""A functional training pipeline for MNIST in JAX and Flax, meant to be read and copied."""

__version__ = "0.1.0"
