"""A seeded fuzz over all endpoints: no 5xx of our own, no growth of memory, nothing left open."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from tests.end_to_end.asking import CLAUDE, GEMINI, GPT, PATHS, body
from tests.end_to_end.conftest import Simulator, running_proxy

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("FUZZ_SEED", "20261125"))
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    1e308,
    2**70,
    "",
    "x",
    "\u0000",
    "ü" * 50,
    [],
    [[]],
    [None],
    {},
    {"type": "x"},
    {"a": {}},
]
TOOL = {
    "type": "object",
    "properties": {"a": {"type": "string", "enum": ["x"]}},
    "$defs": {},
    "additionalProperties": False,
}


def requests(chance: random.Random) -> dict[str, Any]:
    """A valid request of one of the protocols, with most of its features now and then."""
    protocol = chance.choice(["chat", "messages"])
    model = chance.choice(
        [GPT, CLAUDE, GEMINI, "gpt-4o", "o3", "claude-opus-4-6", "claude-haiku-5-5", "gemini-3.5-flash"]
    )
    asked = body(protocol, model, "Hello!", stream=chance.random() < 0.5)
    if chance.random() < 0.5:
        chat_tool = {"type": "function", "function": {"name": "f", "parameters": TOOL}}
        asked["tools"] = [chat_tool if protocol == "chat" else {"name": "f", "input_schema": TOOL}]
    if chance.random() < 0.3:
        asked["messages"][0]["content"] = [{"type": "text", "text": "Hello!"}]
    if chance.random() < 0.3:
        asked["messages"].append({"role": "assistant", "content": "Hi"})
        asked["messages"].append({"role": "user", "content": "Go on"})
    if chance.random() < 0.3:
        asked |= (
            {"temperature": 0.5, "metadata": {"user_id": "u"}, "stop": ["x"]} if protocol == "chat" else {"system": "s"}
        )
    return {"path": PATHS[protocol], "body": asked}


def mutated(chance: random.Random, value: Any) -> Any:
    """``value`` with something in it changed, dropped, doubled or replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        match chance.randrange(5):
            case 0:
                return {k: v for k, v in value.items() if k != name}
            case 1:
                return {
                    **value,
                    chance.choice(["x", "type", "cache_control", "thinking", "n", name + "_"]): chance.choice(VALUES),
                }
            case _:
                return {**value, name: mutated(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.85:
        place = chance.randrange(len(value))
        changed = [*value[:place], mutated(chance, value[place]), *value[place + 1 :]]
        return changed + [value[place]] * chance.choice([0, 0, 1])
    return chance.choice(VALUES)


def content_of(chance: random.Random, asked: dict[str, Any]) -> bytes:
    for _ in range(chance.randrange(4)):
        asked = mutated(chance, asked)
    content = json.dumps(asked).encode()
    match chance.randrange(12):
        case 0:
            place = chance.randrange(len(content) + 1)
            return content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]
        case 1:
            return content[: chance.randrange(len(content) + 1)]
        case _:
            return content


async def one(http: aiohttp.ClientSession, chance: random.Random, statuses: Counter[int]) -> None:
    asked = requests(chance)
    path = (
        asked["path"]
        if chance.random() < 0.9
        else chance.choice(["/v1/embeddings", "/v1/messages/count_tokens", "/v1/x%00", "/v1/models/%2e%2e"])
    )
    content = content_of(chance, asked["body"])
    leaves = chance.random() < 0.05
    try:
        async with http.post(path, data=content, timeout=aiohttp.ClientTimeout(0.02 if leaves else 30)) as answer:
            text = await answer.text()
            statuses[answer.status] += 1
            assert "Traceback" not in text
            assert answer.status < 500 or '"code":"upstream' in text, (path, content, text)
            if answer.status == 200 and "event-stream" in answer.headers["content-type"]:
                assert "data:" in text
    except TimeoutError:
        assert leaves, f"no answer in 30 s: {path} {content!r}"


@pytest.mark.fuzz
@pytest.mark.timeout(SECONDS + 90)
async def test_no_input_makes_a_5xx_of_our_own_and_memory_does_not_grow(tmp_path: Path, simulator: Simulator) -> None:
    simulator.clear()
    with running_proxy(tmp_path, simulator, log_level="error") as proxy:
        process = psutil.Process(proxy.process.pid)
        chance = random.Random(SEED)
        statuses: Counter[int] = Counter()
        sizes: list[int] = []
        ends = time.monotonic() + SECONDS
        headers = {"Authorization": f"Bearer {proxy.key}", "Content-Type": "application/json"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(proxy.url, connector=connector, headers=headers) as http:
            while time.monotonic() < ends:
                await asyncio.gather(*(one(http, random.Random(chance.random()), statuses) for _ in range(32)))
                sizes.append(process.memory_info().rss)
        assert simulator.wait_until_free(5) < 2
        await asyncio.sleep(1)
        assert "aicore_proxy_in_flight_requests 0.0" in proxy.http.get("/metrics").text
        assert "Traceback" not in "".join(proxy.lines)

    print(f"\n{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")
    assert sum(statuses.values()) > 10 * SECONDS
    assert statuses[200] > 0
    assert statuses[400] > 0
    third = len(sizes) // 3
    assert max(sizes[-third:]) < max(sizes[:third]) * 1.15 + 8 * 1024 * 1024
