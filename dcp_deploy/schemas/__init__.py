"""The JSON documents of ``--json``: a model of each, and the published schemas made from the models.

The fields of a model come from the result dataclass wherever a document is one (:func:`.base.described_by`).
``<verb>.json`` in this folder is what :func:`generate` returns; ``python -m dcp_deploy.schemas`` writes all of them.
A verb prints only what :func:`checked` accepts, and a test compares the files with the models.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module, resources
from typing import Any, Union

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from ..errors import UsageError, choose
from .base import VERSION, Error

__all__ = ["MODELS", "checked", "find_schemas", "generate", "published"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# Verb -> module and models. A module is imported when it is needed: some import torch.
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "build": ("building", ("Built", "Planned", "PlannedFetch")),
    "sweep": ("comparing", ("Swept", "SweepPlanned")),
    "compare": ("comparing", ("Compared",)),
    "inspect": (
        "networks",
        (
            "InspectedCheckpoint",
            "InspectedOnnx",
            "InspectedEngine",
            "InspectedBundle",
            "InspectedWebPage",
            "InspectedRun",
        ),
    ),
    "convert": ("networks", ("Converted",)),
    "score": ("networks", ("Scored",)),
    "prune": ("networks", ("Pruned", "PrunePlanned")),
    "distill": ("networks", ("Distilled",)),
    "export": ("networks", ("Exported",)),
    "engine": ("networks", ("EngineBuilt",)),
    "verify": ("measuring", ("Verified", "VerifiedServer")),
    "bench": ("timing", ("Benched",)),
    "bench compare": ("timing", ("BenchCompared",)),
    "sample": ("measuring", ("Sampled",)),
    "eval": ("quality", ("EvaluatedDemo", "EvaluatedData")),
    "directions": ("quality", ("DirectionsFound",)),
    "project": ("quality", ("Projected",)),
    "bundle": ("shipping", ("Bundled", "WebBundled")),
    "bundle verify": ("shipping", ("BundleVerified", "WebVerified")),
    "serve": ("shipping", ("Serving", "ServingPage")),
    "push": ("shipping", ("Pushed",)),
    "datasets": ("machine", ("PresetsListed", "PresetShown")),
    "doctor": ("machine", ("Diagnosed",)),
    "cache list": ("machine", ("CachesListed",)),
    "cache clear": ("machine", ("CachesListed",)),
    "schema": ("machine", ("SchemasListed",)),
}


def checked(verb: str, document: dict[str, Any]) -> str:
    """Return the document as JSON, with its schema version. ValidationError unless it fits a model of the verb."""
    text = json.dumps({"schema": VERSION, **document}, indent=2, allow_nan=False)
    _adapter(verb).validate_json(text, strict=True)
    return text


def published(verb: str) -> dict[str, Any]:
    """Return the JSON Schema of a verb's documents, errors included, as shipped with the package."""
    text = (resources.files(__package__) / file_of(verb)).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def file_of(verb: str) -> str:
    """Return the name of a verb's schema file; a verb of two words is joined."""
    return f"{verb.replace(' ', '-')}.json"


def find_schemas(verb: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the published schema of a verb by its name, without one those of all verbs. UsageError if unknown."""
    if verb is not None and verb not in MODELS:
        raise UsageError(f"unknown verb {verb!r}", choose(verb, MODELS))
    return {name: published(name) for name in (MODELS if verb is None else [verb])}


def generate(verb: str) -> dict[str, Any]:
    """Return the JSON Schema that the models of a verb make."""
    schema = _without_prohibitions(_adapter(verb).json_schema(schema_generator=_Untitled))
    head = {
        "$schema": DIALECT,
        "$id": f"urn:dcp-deploy:schema:{VERSION}:{verb.replace(' ', '-')}",
        "title": verb,
        "description": f"One document that dcp-deploy {verb} --json prints: its answer, or an error.",
    }
    return {**head, **schema}


def _without_prohibitions(schema: Any) -> Any:
    """Allow additional fields: we print none, but a later version may, and a reader must accept that."""
    if isinstance(schema, list):
        return [_without_prohibitions(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = ("additionalProperties", False)
    return {name: _without_prohibitions(part) for name, part in schema.items() if (name, part) != closed}


@cache
def _adapter(verb: str) -> TypeAdapter[Any]:
    module, names = MODELS[verb]
    found = import_module(f".{module}", __package__)
    answers: Any = Union[*(getattr(found, name) for name in names), Error]
    return TypeAdapter(answers)


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles of fields, which only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False
