from __future__ import annotations

import asyncio
import threading

import pytest

from dcp_deploy.export.serving.request_checks import Refusal
from dcp_deploy.export.serving.traffic import CHECKERS, INLINE_BYTES, Traffic


def test_only_a_large_request_is_checked_in_a_thread_so_others_are_answered_meanwhile() -> None:
    async def checked() -> tuple[int, int, list[str]]:
        traffic, done = Traffic(), list[str]()
        small = await traffic.check(INLINE_BYTES, threading.get_ident)
        large = await traffic.check(INLINE_BYTES + 1, threading.get_ident)
        answered = threading.Event()
        slow = [
            asyncio.ensure_future(traffic.check(INLINE_BYTES + 1, answered.wait, 60.0)) for _ in range(2 * CHECKERS)
        ]
        await traffic.check(1, done.append, "a small one while large ones are checked")
        answered.set()
        assert all(await asyncio.gather(*slow))
        traffic.checkers.shutdown()
        return small, large, done

    small, large, done = asyncio.run(checked())
    assert small == threading.get_ident() != large
    assert done == ["a small one while large ones are checked"]


def test_the_reason_of_a_refusal_comes_back_from_the_thread() -> None:
    def refuse() -> None:
        raise Refusal("why")

    async def checked() -> None:
        await Traffic().check(INLINE_BYTES + 1, refuse)

    with pytest.raises(Refusal, match="why"):
        asyncio.run(checked())


def test_more_requests_than_may_be_in_flight_are_refused_with_503() -> None:
    traffic = Traffic(most=1)
    with traffic.inferring():
        with pytest.raises(Refusal) as refusal, traffic.inferring():
            pytest.fail("one is in flight")
        assert refusal.value.status == 503
    with traffic.inferring():
        pass


def test_no_image_is_asked_for_while_the_models_start() -> None:
    with pytest.raises(Refusal, match="starting") as refusal, Traffic(ready=False).inferring():
        pytest.fail("no model runs")
    assert refusal.value.status == 503
