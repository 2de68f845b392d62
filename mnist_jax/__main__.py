"""`python -m mnist_jax COMMAND` is `mnist-jax COMMAND`."""

from mnist_jax.cli.entry import run

run()
