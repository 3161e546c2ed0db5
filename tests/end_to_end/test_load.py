"""What one client does to the others: large bodies, readers that do not read."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from tests.end_to_end.asking import CLAUDE, GEMINI, GPT, PATHS, body, simulate
from tests.end_to_end.conftest import Simulator, running_proxy
from tests.end_to_end.test_streams import request_bytes

MEDIA = base64.b64encode(os.urandom(15 * 1024 * 1024)).decode()
LARGE: list[tuple[str, str, str, float]] = [
    ("relayed", "chat", GPT, 0.5),
    ("relayed text, amended", "messages", CLAUDE, 0.5),
    ("translated, most of it media", "messages", GPT, 0.5),
    ("translated, a PDF", "messages", GEMINI, 0.5),
    ("translated text", "chat", CLAUDE, 2.0),
]


def large(protocol: str, model: str, what: str) -> bytes:
    """A body of 20 MB."""
    if "text" in what:
        turns = [{"role": ("user", "assistant")[n % 2], "content": f"{n} " + "lorem ipsum " * 400} for n in range(4001)]
        # What Bedrock refuses stands in one block, and all of them have to be read for it
        marked = {"type": "text", "text": "Go on.", "cache_control": {"type": "ephemeral", "scope": "global"}}
        last = {"role": "user", "content": [marked] if "amended" in what else "Go on."}
        return json.dumps({"model": model, "max_tokens": 100, "messages": [*turns[:-1], last]}).encode()
    kind, media_type = ("document", "application/pdf") if "PDF" in what else ("image", "image/png")
    source = {"type": "base64", "media_type": media_type, "data": MEDIA}
    image: dict[str, Any] = {"type": kind, "source": source}
    if protocol == "chat":
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{MEDIA}"}}
    return json.dumps(body(protocol, model, [image, {"type": "text", "text": "What is it?"}])).encode()  # type: ignore[arg-type]


@pytest.mark.timed
@pytest.mark.parametrize(("what", "protocol", "model", "bound"), LARGE, ids=[row[0] for row in LARGE])
async def test_a_body_of_20_mb_stalls_none_of_200_live_streams(
    tmp_path: Path, simulator: Simulator, what: str, protocol: str, model: str, bound: float
) -> None:
    """The aim is 50 ms, for translated text 200 ms (the benchmark shows it); asserted is ten times that. A machine that
    is busy with other things stalls the loop too, so up to three bodies are sent: one that stalls nobody shows it."""
    simulator.clear()
    content = large(protocol, model, what)
    with running_proxy(tmp_path, simulator, log_level="error") as proxy:
        headers = {"Authorization": f"Bearer {proxy.key}", "Content-Type": "application/json"}
        live = json.dumps(body("chat", GPT, simulate(events=2000, rate=10), stream=True)).encode()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(proxy.url, connector=connector, headers=headers) as http:
            streams = [await http.post(PATHS["chat"], data=live) for _ in range(200)]
            lags: list[float] = []
            while len(lags) < 3 and min(lags, default=bound) >= bound:
                await asyncio.sleep(11)  # the gauge shows the worst of the last ten seconds: without the start
                async with http.post(PATHS[protocol], data=content) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
                async with http.get("/metrics") as metrics:
                    lag = re.search(r"^aicore_proxy_loop_lag_seconds (\S+)$", await metrics.text(), re.MULTILINE)
                assert lag
                lags.append(float(lag[1]))
            for stream in streams:
                assert await stream.content.readany()
                stream.close()

    print(f"\n{what}: loop lag {min(lags) * 1000:.0f} ms")
    assert min(lags) < bound


@pytest.mark.timed
@pytest.mark.parametrize(("protocol", "model"), [("chat", GPT), ("messages", GPT)])
def test_s08_a_client_that_reads_nothing_holds_its_upstream_back(
    tmp_path: Path, simulator: Simulator, protocol: str, model: str
) -> None:
    """The upstream pushes as fast as it can. Run for 6 s instead of 30: what is held is held after one."""
    simulator.clear()
    with running_proxy(tmp_path, simulator, log_level="error") as proxy:
        process = psutil.Process(proxy.process.pid)
        proxy.http.post(PATHS[protocol], json=body(protocol, model, "warm up", stream=True))
        before = process.memory_info().rss
        pushed = simulator.pushed()
        asked = body(protocol, model, simulate(events=100_000, event_bytes=64_000, rate=1600), stream=True)
        connection = socket.create_connection(("127.0.0.1", proxy.port))
        connection.sendall(request_bytes(proxy, protocol, asked))
        sizes = []
        for _ in range(12):
            time.sleep(0.5)
            sizes.append(simulator.pushed() - pushed)
            grown = process.memory_info().rss - before
            assert grown < 8 * 1024 * 1024, f"memory grew by {grown / 2**20:.1f} MiB"
        connection.close()
        assert simulator.wait_until_free(5) < 1.0

    assert 0 < sizes[-1] < 16 * 1024 * 1024
    assert sizes[-1] == sizes[-4], "the upstream is held back, not slowed"
