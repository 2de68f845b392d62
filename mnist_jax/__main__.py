"""`python -m mnist_jax COMMAND` is `mnist-jax COMMAND`."""

from mnist_jax.cli.main import run

run()
