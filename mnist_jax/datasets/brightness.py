"""The value of white in images of any numbers."""

# The largest value that a format has: of fractions, of 4 bits, of scikit-learn's digits, of 8, 10,
# 12 and 16 bits.
WHITES = (1, 15, 16, 255, 1023, 4095, 65535)
ROUNDING = 1e-3  # by which a computed white may be too bright


def white(largest: float) -> int:
    """Returns the value that stands for white in images whose largest value is this."""
    return next((value for value in WHITES if value * (1 + ROUNDING) >= largest), WHITES[-1])
