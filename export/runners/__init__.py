"""One interface over everything that generates images: latents in, images out, as numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import import_on_use

__all__ = [
    "FormRunner",
    "Runner",
    "SynthesisRunner",
    "load_form",
    "load_runner",
    "load_synthesis",
]

if TYPE_CHECKING:
    from .forms import FormRunner, load_form
    from .loading import load_runner
    from .runner import Runner
    from .synthesis import SynthesisRunner, load_synthesis
else:
    __getattr__, __dir__ = import_on_use(
        __name__,
        {
            "forms": ("FormRunner", "load_form"),
            "loading": ("load_runner",),
            "runner": ("Runner",),
            "synthesis": ("SynthesisRunner", "load_synthesis"),
        },
    )
