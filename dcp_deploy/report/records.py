"""Numbers as the files of a run hold them, and the configuration of the records that read them."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, JsonValue

# What no measurement gives, and what charts and divisions could not take, is read as damage.
Count = Annotated[int, Field(ge=0, lt=2**63)]
Measure = Annotated[float, Field(gt=-1e12, lt=1e12)]
Milliseconds = Annotated[float, Field(gt=1e-9, lt=1e12)]


def _finite(value: JsonValue) -> JsonValue:
    """Return a JSON value unchanged. ValueError for NaN and infinity in it, which could not be written again."""
    json.dumps(value, allow_nan=False)
    return value


Json = Annotated[JsonValue, AfterValidator(_finite)]


LENIENT = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())
"""Configuration of all records. Extra fields are ignored; NaN and infinity are rejected.

Each module has a base class with it: ruff accepts ``list`` and ``dict`` defaults only below a BaseModel of the module.
"""
