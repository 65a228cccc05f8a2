"""Numbers in the form in which people read them. None stays None."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

_PREFIXES = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))


def amount(value: float | None, like: float | None = None) -> str | None:
    """Write three or four digits and a decimal prefix: 30034338 -> ``30.03 M``.

    ``like``: a number whose prefix to use, so that numbers of one comparison have one unit: 625340 like 3.1 million ->
    ``0.63 M``.
    """
    if value is None:
        return None
    largest = max(abs(value), abs(like or 0))
    for limit, prefix in _PREFIXES:
        if largest >= limit:
            scaled = value / limit
            return f"{scaled:.2f}{prefix}" if abs(scaled) >= 0.1 or not value else f"{scaled:.2g}{prefix}"
    return f"{value:g}"


def size(count: int | None, like: float | None = None) -> str | None:
    """Write bytes with a decimal prefix: 22300000 -> ``22.30 MB``; ``like`` as in :func:`amount`."""
    text = amount(count, like)
    return None if text is None else f"{text}B" if text[-1].isalpha() else f"{text} B"


def largest(values: Sequence[float | None]) -> float | None:
    """Return the largest of the known numbers, None without any."""
    return max((value for value in values if value is not None), default=None)


def date(text: str | None) -> str | None:
    """Write an ISO time for people, in UTC: ``29 November 2026, 19:49 UTC``. Other text stays as it is."""
    try:
        when = datetime.fromisoformat(text or "")
    except ValueError:
        return text
    when = when.astimezone(UTC) if when.tzinfo else when
    return f"{when.day} {when:%B %Y, %H:%M}{' UTC' if when.tzinfo else ''}"


def milliseconds(value: float | None) -> str | None:
    """Write at least three digits: ``541 ms``, ``56.2 ms``, ``0.431 ms``."""
    if value is None:
        return None
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} ms"


def seconds(value: float | None) -> str | None:
    """Write a duration: ``0.42 s``, ``41 s``, ``4 min 02 s``, ``1 h 04 min``."""
    if value is None:
        return None
    whole = round(value)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{value:.0f} s" if value >= 10 else f"{value:.2f} s"


def times(value: float | None) -> str | None:
    """Write a factor: ``10.9×``, ``5.39×``."""
    if value is None:
        return None
    return f"{value:.1f}×" if value >= 10 else f"{value:.2f}×"


def plain(value: float | None, digits: int = 3) -> str | None:
    """Write a number without unit, ``digits`` after the point."""
    return None if value is None else f"{value:.{digits}f}"


def short(value: float | None) -> str | None:
    """Write three significant digits: ``3.1e-05``, ``0.0125``, ``1``."""
    return None if value is None else f"{value:.3g}"


def share(value: float | None) -> str | None:
    """Write a share in per cent: ``24.5 %``."""
    return None if value is None else f"{100 * value:.1f}\u00a0%"


def ratio(over: float | None, under: float | None) -> float | None:
    """Return over / under, None if either is missing or ``under`` is 0."""
    return None if over is None or under is None or under == 0 else over / under


def remark(reason: str | None) -> str:
    """Return why a stage was reused, skipped or run again; nothing for one that simply ran."""
    return "" if reason is None or reason.endswith("has not run yet") else reason
