"""What every ``--json`` document has in common."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model

VERSION: Literal[1] = 1

Facts: TypeAlias = dict[str, JsonValue]
Sha256: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Part(BaseModel):
    """An object inside a document. Numbers are finite, and a field that is not described is rejected."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class Document(Part):
    """One answer of a verb."""

    schema_version: Literal[1] = Field(alias="schema")
    """Goes up when a field is removed or changes its meaning. New fields may come without that."""


class Failure(Part):
    """Why a verb gave no answer."""

    exit_code: int
    """The exit code of the process."""
    message: str
    """What is wrong, with the value."""
    remedy: str
    """What to do about it; empty if unknown."""


class Error(Document):
    """Printed in place of an answer. The same words are on stderr."""

    error: Failure


class WithSettings(Document):
    """An answer of a verb that wrote a file or folder."""

    path: str
    settings: str
    """TOML file with the flags that make it again: ``--config``."""


class Written(WithSettings):
    """A file that a verb wrote."""

    bytes: int
    sha256: Sha256


P = TypeVar("P", bound=Part)


def described_by(*results: type, without: Collection[str] = ()) -> Callable[[type[P]], type[P]]:
    """Add the fields of result dataclasses to a document, all of them required.

    ``without`` names fields that are not printed. A field that the document declares itself replaces the result's: it
    is printed in another form. A document without a docstring takes the first result's.
    """

    def decorate(document: type[P]) -> type[P]:
        fields: dict[str, Any] = {}
        for result in results:
            words = _attribute_docstrings(result)
            for name, kind in get_type_hints(result, include_extras=True).items():
                if name not in without and name not in document.model_fields:
                    fields[name] = (kind, Field(description=words.get(name)))
        words_of_class = document.__doc__ or results[0].__doc__
        return create_model(
            document.__name__, __base__=document, __module__=document.__module__, __doc__=words_of_class, **fields
        )

    return decorate


def _attribute_docstrings(result: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass and of its bases."""
    words = {}
    for parent in reversed(result.__mro__[:-1]):
        try:
            source = inspect.getsource(parent)
        except OSError:  # installed without sources: only the descriptions are missing
            continue
        (definition,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(field.target, ast.Name):
                words[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return words
