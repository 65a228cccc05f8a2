"""Weights that ship with the package, each with the record of how it was made."""
