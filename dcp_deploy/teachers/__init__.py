"""Presets of published teachers, and the download of their files."""
