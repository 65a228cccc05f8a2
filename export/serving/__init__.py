"""A bundle behind a server: Triton, the filter in front of it, and checks of a running endpoint."""
