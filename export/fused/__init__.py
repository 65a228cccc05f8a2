"""The deployable form of a generator: the same function, rearranged so that its weights are constants."""
