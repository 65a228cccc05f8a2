"""The version of the package: part of every cache key and record."""

__version__ = "0.1.0"
