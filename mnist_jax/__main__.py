"""`python -m mnist_jax COMMAND` is `mnist-jax COMMAND`."""

import sys

from mnist_jax.cli import main

sys.exit(main())
