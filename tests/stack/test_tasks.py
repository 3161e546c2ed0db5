"""The owner of background tasks."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aicore_proxy.tasks import Supervisor


async def test_all_tasks_end_with_their_owner() -> None:
    supervisor = Supervisor()
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    supervisor.start("a", work("a"))
    supervisor.start("b", work("b"))
    await asyncio.sleep(0)
    assert len(supervisor) == 2
    await supervisor.aclose()
    assert (sorted(ended), len(supervisor)) == (["a", "b"], 0)
    with pytest.raises(RuntimeError, match="closed"):
        supervisor.start("c", work("c"))


async def test_a_crash_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor()

    async def crash() -> None:
        raise KeyError("the reason")

    supervisor.start("fragile", crash())
    with caplog.at_level(logging.ERROR):
        await asyncio.sleep(0.01)
    assert "fragile" in caplog.text
    assert "KeyError: 'the reason'" in caplog.text
    assert len(supervisor) == 0
    await supervisor.aclose()
