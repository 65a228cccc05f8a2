"""Numbers that all implementations of our operators share."""

LEAKY_SLOPE = 0.2
SMALLEST_PEAK = 1e-12  # used as max|s| of styles that are all zero
FIR = (1.0, 3.0, 3.0, 1.0)  # the up-sampling low-pass per axis; outer(FIR, FIR) / 16 has the gain 4 of zero insertion
