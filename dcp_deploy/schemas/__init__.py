"""The JSON documents of ``--json``: one model for each, and the published schemas made of them.

``<verb>.json`` in this folder is what :func:`generate` makes of the models of a verb; ``python -m dcp_deploy.schemas``
writes all of them anew. What a verb prints goes through :func:`checked`, so it cannot differ from its model, and a test
compares the files with the models.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module, resources
from typing import Any, Union

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from ..errors import UsageError
from .base import VERSION, Error

__all__ = ["MODELS", "checked", "find_schemas", "generate", "published"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# The module of each verb's models, which is imported when they are needed: some stand on torch.
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "build": ("building", ("Built", "Planned", "PlannedFetch")),
    "inspect": ("networks", ("InspectedCheckpoint", "InspectedOnnx", "InspectedEngine", "InspectedBundle")),
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
    "bundle": ("shipping", ("Bundled", "BundleVerified")),
    "serve": ("shipping", ("Serving",)),
    "datasets": ("machine", ("PresetsListed", "PresetShown")),
    "doctor": ("machine", ("Diagnosed",)),
    "schema": ("machine", ("SchemasListed",)),
}


def checked(verb: str, document: dict[str, Any]) -> str:
    """The document as JSON, with its schema version. ValidationError when it is not as the verb's models say."""
    text = json.dumps({"schema": VERSION, **document}, indent=2, allow_nan=False)
    _adapter(verb).validate_json(text, strict=True)
    return text


def published(verb: str) -> dict[str, Any]:
    """The JSON Schema of a verb's documents, errors included, as shipped with the package."""
    text = (resources.files(__package__) / file_of(verb)).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def file_of(verb: str) -> str:
    """The name of its file: a verb of two words is joined."""
    return f"{verb.replace(' ', '-')}.json"


def find_schemas(verb: str | None = None) -> dict[str, dict[str, Any]]:
    """The published schema of a verb by its name; of all verbs without one. UsageError for one that there is not."""
    if verb is not None and verb not in MODELS:
        raise UsageError(f"there is no verb {verb!r} with a schema", f"Known: {', '.join(MODELS)}.")
    return {name: published(name) for name in (MODELS if verb is None else [verb])}


def generate(verb: str) -> dict[str, Any]:
    """The same, made from the models."""
    schema = _opened(_adapter(verb).json_schema(schema_generator=_Untitled))
    told = f"One document that dcp-deploy {verb} --json prints: its answer, or why there is none."
    head = {
        "$schema": DIALECT,
        "$id": f"urn:dcp-deploy:schema:{VERSION}:{verb.replace(' ', '-')}",
        "title": verb,
        "description": told,
    }
    return {**head, **schema}


def _opened(schema: Any) -> Any:
    """What we print has no field that is not written down, but a reader must not mind one of a later version."""
    if isinstance(schema, list):
        return [_opened(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _opened(part) for name, part in schema.items() if (name, part) != ("additionalProperties", False)}


@cache
def _adapter(verb: str) -> TypeAdapter[Any]:
    module, names = MODELS[verb]
    found = import_module(f".{module}", __package__)
    answers: Any = Union[*(getattr(found, name) for name in names), Error]
    return TypeAdapter(answers)


class _Untitled(GenerateJsonSchema):
    """Without a title for every field that only repeats its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False
