"""Reads pickles without running them: an interpreter that cannot import, and the values that it may create."""
