"""Connections that live for long: they hold nothing of the requests that they carried, and do not all end together."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from contextlib import suppress

from tests.stack.peers import listening, scripted, whole

from aicore_proxy.upstream import PooledUpstream, UpstreamRequest
from aicore_proxy.upstream.dialing import open_socket


async def test_a_pooled_connection_holds_no_body(upstream: PooledUpstream) -> None:
    body = os.urandom(100_000)
    before = sys.getrefcount(body)
    async with listening(scripted(whole(b"x"), then="keep")) as peer:
        response = await upstream.send(UpstreamRequest("POST", peer.url(), (), body))
        assert await response.read(10) == b"x"
        del response
        await asyncio.sleep(0.01)
        assert sys.getrefcount(body) == before


async def test_a_request_that_is_given_up_leaves_no_body_to_the_garbage_collector(upstream: PooledUpstream) -> None:
    body = os.urandom(100_000)
    before = sys.getrefcount(body)
    gc.disable()
    try:
        async with listening(scripted(60.0)) as peer:
            asked = asyncio.get_running_loop().create_task(upstream.send(UpstreamRequest("POST", peer.url(), (), body)))
            while not peer.talks:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            asked.cancel()
            with suppress(asyncio.CancelledError):
                await asked
            del asked
            await asyncio.sleep(0.01)
            assert sys.getrefcount(body) == before
    finally:
        gc.enable()


def test_connections_that_went_silent_together_are_probed_at_different_times() -> None:
    opened = [open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))) for _ in range(100)]
    try:
        idle = [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) for each in opened]
    finally:
        for each in opened:
            each.close()
    assert min(idle) >= 40
    assert max(idle) <= 100
    assert len(set(idle)) > 50
