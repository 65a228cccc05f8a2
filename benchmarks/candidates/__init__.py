"""Candidates: every model in every runtime that can run it, opened and called in the same way."""
