"""The version of the package, which is part of every cache key and record."""

__version__ = "0.1.0"
