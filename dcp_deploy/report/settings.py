"""Settings, machine and engine as tables: what was set apart from the rest, and no empty values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from ..config import BuildConfig
from .run_directory import RunDirectory
from .tables import Table

NOT_SET = "not set"
_DEFAULTS: dict[str, JsonValue] = BuildConfig().model_dump(mode="json")


def mapping_table(values: Mapping[str, JsonValue], missing: str = NOT_SET) -> Table:
    """List a JSON object; entries of nested objects have dotted names. ``missing`` stands for null."""
    return Table(("", ""), tuple((key, scalar(value, missing)) for key, value in flat(values)))


def changed_table(run: RunDirectory) -> Table:
    """List the settings of a build that differ from today's defaults, without its folder."""
    rows = [
        (key, scalar(value), scalar(_DEFAULTS[key]))
        for key, value in run.run.config.items()
        if key != "out" and key in _DEFAULTS and value != _DEFAULTS[key]
    ]
    return Table(("setting", "here", "default"), tuple(rows))


def settings_table(run: RunDirectory) -> Table:
    """List every setting and what the effort level made of it."""
    return mapping_table({**run.run.config, **run.run.effort})


def machine_table(run: RunDirectory) -> Table:
    """List machine and versions of the build, else of the benchmark. The page shows the command elsewhere."""
    found = run.run.environment or (run.bench.environment if run.bench else {})
    shown = {key: value for key, value in found.items() if key != "command" and (value is not None or key == "gpu")}
    return mapping_table(shown, "none")


def flat(values: Mapping[str, JsonValue], prefix: str = "") -> Iterable[tuple[str, JsonValue]]:
    """Yield the entries of a nested JSON object under dotted names."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def scalar(value: JsonValue, missing: str = NOT_SET) -> str:
    """Write one value for people; ``missing`` stands for null."""
    if value is None:
        return missing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(scalar(item, "none") for item in value)
    return str(value)
