"""Gather what a finished run puts into a bundle."""
