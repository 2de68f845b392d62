"""The optimizer of a recipe."""

import optax


def create_optimizer(
    learning_rate: float, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """Returns Adam.

    Args:
        learning_rate: step size, above 0.
        b1: decay of the mean of the gradients, in [0, 1).
        b2: decay of the mean of their squares, in [0, 1).
        eps: added to the root of the second mean, above 0. Keras takes 1e-7, Optax 1e-8.

    References:
        D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2015,
        https://arxiv.org/abs/1412.6980
    """
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)
