"""Watch the models of a running Triton from the request filter, and report one that does not answer."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .silence import Answers
from .traffic import Traffic

if TYPE_CHECKING:
    import aiohttp

_LOOKS = 20  # in the time after which a small model counts as silent


async def watch_models(upstream: str, traffic: Traffic, patience: float, report: int) -> None:
    """Look until cancelled. Write the name of a silent model to the pipe ``report``; the models are not ready then.

    ``upstream``: Triton's HTTP address. ``patience``: seconds without an answer, for small models.
    """
    import aiohttp

    answers, probes = traffic.answers, set[asyncio.Task[None]]()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        while True:
            await asyncio.sleep(patience / _LOOKS)
            if not traffic.ready or traffic.draining:
                continue
            if not answers.models:
                with suppress(aiohttp.ClientError, ValueError, KeyError):  # Triton ends; the next look tries again
                    answers.begin(await _configs(session, upstream))
                continue
            if (name := answers.silent(patience)) is not None:
                traffic.ready = False
                os.write(report, f"{name}\n".encode())
                continue
            for name in answers.idle(patience):
                probes.add(task := asyncio.create_task(_probe(session, upstream, answers, name)))
                task.add_done_callback(probes.discard)


async def _configs(session: aiohttp.ClientSession, upstream: str) -> dict[str, dict[str, Any]]:
    """Return the configurations of all models that are ready."""
    async with session.post(f"{upstream}/v2/repository/index") as answer:
        names = [one["name"] for one in await answer.json() if one.get("state") == "READY"]
    configs = {}
    for name in names:
        async with session.get(f"{upstream}/v2/models/{name}/config") as answer:
            configs[name] = await answer.json()
    return configs


async def _probe(session: aiohttp.ClientSession, upstream: str, answers: Answers, name: str) -> None:
    """Ask a model for one image, and note how long that took."""
    import aiohttp

    model, sent = answers.models.get(name), answers.clock()
    if model is None:  # the models are being started again
        return
    model.probed = sent
    with suppress(aiohttp.ClientError), answers.waiting(name) as answered:
        async with session.post(f"{upstream}/v2/models/{name}/infer", data=model.probe) as answer:
            if answer.status == 200:
                answered()
                model.seconds = min(model.seconds, answers.clock() - sent)
            await answer.read()


def report_pipe() -> tuple[int, int]:
    """Return the ends of a pipe for reports: where :func:`reported_model` reads, and where the filter writes."""
    report, reporting = os.pipe()
    os.set_blocking(report, False)
    return report, reporting


def reported_model(report: int) -> str | None:
    """Return the model that was reported last since the last call, None if none was."""
    with suppress(BlockingIOError):
        names = os.read(report, 4096).decode().split()
        return names[-1] if names else None
    return None
