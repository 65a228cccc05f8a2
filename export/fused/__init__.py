"""The fused generator: the same function as the readable one, rearranged so that all its weights are constants."""
