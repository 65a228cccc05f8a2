"""Operators of the fused generator: the reference in torch that every other implementation is held to."""

from __future__ import annotations

from .reference import modconv_epilogue

__all__ = ["modconv_epilogue"]
