"""Processes that compute together, on one machine or on several: what each of them does, and how they connect."""
