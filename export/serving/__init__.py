"""Serving a bundle: Triton, the request filter in front of it, and checks of a running endpoint."""
