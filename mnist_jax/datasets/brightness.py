"""The value of white in images of any numbers."""

# Fractions, 4 bits, scikit-learn's digits, 8, 10, 12 and 16 bits.
WHITES = (1, 15, 16, 255, 1023, 4095, 65535)
ROUNDING = 1e-3  # relative excess of a computed white


def white(largest: float) -> int:
    """Guesses the value of white from images' largest value."""
    return next((value for value in WHITES if value * (1 + ROUNDING) >= largest), WHITES[-1])
