"""Sorting whole numbers by their digits, in numpy."""

import numpy as np
from numpy.typing import NDArray

_DIGIT_BITS = 16


def rising_order(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the numbers in rising order, equal ones in the order that they have; int64 [rows].

    Digit by digit from the lowest (radix sort): numpy sorts 16 bits by counting them, which makes this two to three
    times as fast as its ``argsort`` of 64 for numbers whose range needs 48 bits.
    """
    if len(numbers) == 0:
        return np.zeros(0, np.int64)
    bits = numbers.astype(np.int64, copy=False).view(np.uint64)
    # from the smallest: negative numbers rise too in unsigned digits, and the fewer the bits, the fewer the rounds
    above = bits - bits[numbers.argmin()]
    order = np.argsort(above.astype(np.uint16), kind="stable")
    for shift in range(_DIGIT_BITS, int(above.max()).bit_length(), _DIGIT_BITS):
        digits = (above >> np.uint64(shift)).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order
