"""What every ``--json`` document has in common."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue

VERSION: Literal[1] = 1

Facts: TypeAlias = dict[str, JsonValue]
Sha256: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=())


class Part(BaseModel):
    """An object inside a document. Numbers are finite, and a field nobody described is refused."""

    model_config = STRICT


class Document(Part):
    """One answer of a verb."""

    schema_version: Literal[1] = Field(alias="schema")
    """Goes up when a field goes away or changes its meaning; new fields may come without that."""


class Failure(Part):
    """Why a verb did not do what it was told."""

    exit_code: int
    """The same that the process ends with."""
    message: str
    """Names the value that was wrong."""
    remedy: str
    """What to do about it; empty where nobody knows."""


class Error(Document):
    """In place of an answer: nothing else is on stdout then. The same words are on stderr."""

    error: Failure


class Written(Document):
    """A file that a verb wrote."""

    path: str
    bytes: int
    sha256: Sha256
    settings: str
    """TOML file with the flags that make it again: ``--config``."""
