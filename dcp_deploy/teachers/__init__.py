"""Presets of published teachers, and how their files are fetched."""
