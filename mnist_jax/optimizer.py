"""The optimizer of a recipe."""

import optax


def create_optimizer(
    learning_rate: float, schedule: str, b1: float, b2: float, eps: float, *, num_steps: int
) -> optax.GradientTransformation:
    """Returns Adam.

    Args:
        learning_rate: step size, above 0; of a schedule, the largest one.
        schedule: `constant`; or `one_cycle`, which rises from a 25th of `learning_rate` during
            30 % of the steps, and then falls to almost nothing.
        b1: decay of the mean of the gradients, in [0, 1).
        b2: decay of the mean of their squares, in [0, 1).
        eps: added to the root of the second mean, above 0. Keras takes 1e-7, Optax 1e-8.
        num_steps: updates in the whole run.

    References:
        D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2015,
        https://arxiv.org/abs/1412.6980
        L. N. Smith and N. Topin, "Super-Convergence: Very Fast Training of Neural Networks Using
        Large Learning Rates", 2017, https://arxiv.org/abs/1708.07120 (one cycle).
    """
    rate = learning_rate
    if schedule == "one_cycle":
        rate = optax.cosine_onecycle_schedule(num_steps, learning_rate)
    return optax.adam(rate, b1=b1, b2=b2, eps=eps)
