"""Bytes that are nearly HTTP, by the thousand, at the real proxy: each gets its answer or an orderly end."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.end_to_end.asking import CLAUDE, GEMINI, GPT, body
from tests.end_to_end.conftest import KEY, running_proxy, running_simulator

SEED = int(os.environ.get("FUZZ_SEED", "20261125"))
REQUESTS = 3000
AT_ONCE = 250
LONGEST = 8.0
"""Seconds from the first byte to the end of a connection."""
PIECES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"%00",
        b"%2e%2e/",
        b"?",
        b"#",
        b"//",
        b"\xff",
        b'"',
    ),
    *(b"\r\n\r\n", b"\r\n ", b"0\r\n\r\n", b"-1", b"ffffffffffffffff", b"1e3", b"+5", b"99999999999999999999"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Host: b\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET ", b"x" * 3000, b"a: b\r\n" * 250),
    *(b"Content-Encoding: gzip\r\n", b"Content-Encoding: zstd\r\n", b"X: " + b"y" * 70_000 + b"\r\n"),
)
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*\r\n")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)\r\n")


def request(path: str, content: bytes = b"", *fields: str, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: proxy.test", f"Authorization: Bearer {KEY}", *fields]
    if content and not any(field.startswith("Transfer") for field in fields):
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def chunked(content: bytes, size: int, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n%b\r\n" % trailers


def valid_requests() -> list[bytes]:
    chat, stream = (json.dumps(body("chat", GPT, "Hello!", stream=stream)).encode() for stream in (False, True))
    translated = json.dumps(body("messages", GEMINI, "Hello!", stream=True)).encode()
    claude = json.dumps(body("messages", CLAUDE, "Hello!")).encode()
    te = "Transfer-Encoding: chunked"
    return [
        request("/v1/chat/completions", chat, "Content-Type: application/json"),
        request("/v1/chat/completions", stream, "Accept: text/event-stream", "Connection: keep-alive"),
        request("/v1/chat/completions", chunked(chat, 20, b";a=b"), te),
        request("/v1/messages?beta=true", chunked(translated, 7, trailers=b"X-Trailer: t\r\n"), te),
        request("/v1/messages", claude, "anthropic-version: 2023-06-01", "Expect: 100-continue"),
        request("/v1/messages/count_tokens", claude, "Connection: close"),
        request("/v1/chat/completions", gzip.compress(chat), "Content-Encoding: gzip"),
        request("/v1/chat/completions", chat, version="1.0"),
        request("/v1/models", method="GET")
        + request("/v1/models/gpt-5", method="GET")
        + request("/v1/messages", claude),
        request("http://proxy.test/v1/models?limit=2", method="GET"),
        request("/health/ready", method="GET") + request("/v1/chat/completions", stream),
        request("/v1/embeddings", b'{"model":"text-embedding-3-small","input":"a"}'),
    ]  # fmt: skip


def mutated(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    to = min(len(data), at + chance.choice((1, 1, 2, 8, 60)))
    lines = data.split(b"\r\n")
    line = chance.randrange(len(lines))
    match chance.randrange(11):
        case 0 | 1:
            return data[:at] + bytes((chance.randrange(256),)) + data[at + 1 :]
        case 2 | 3:
            return data[:at] + chance.choice(PIECES) + data[at:]
        case 4:
            return data[:at] + data[to:]
        case 5:
            return data[:to] + data[at:]
        case 6:
            return data[:at]
        case 7:
            return b"\r\n".join([*lines[:line], chance.choice(PIECES).rstrip(b"\r\n"), *lines[line:]])
        case 8:
            return b"\r\n".join([*lines[: line + 1], *lines[line:]])
        case 9:
            return data[:at] + chance.choice(others)[chance.randrange(200) :]
        case _:
            numbers = list(re.finditer(rb"(?<=Length: )\d+|(?<=\r\n)[0-9a-f]+(?=[;\r])", data))
            if not numbers:
                return data[:at].swapcase() + data[at:]
            number = chance.choice(numbers)
            new = chance.choice((b"0", b"1", b"%d" % (int(number[0], 16) + 1), b"007", b"", b"-3", b"1 1", b"9" * 17))
            return data[: number.start()] + new + data[number.end() :]


def split(chance: random.Random, data: bytes) -> list[bytes]:
    """``data`` as it is written, piece by piece."""
    if chance.random() < 0.5:
        return [data]
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((1, 2, 20))))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def statuses_of(out: bytes) -> list[int]:
    """The statuses of well-formed answers, of which ``out`` consists; fails on anything else."""
    found = []
    while out:
        line = STATUS_LINE.match(out)
        assert line, out[:200]
        head, end, out = out.partition(b"\r\n\r\n")
        assert end, head
        fields: dict[bytes, bytes] = {}
        for text in head.split(b"\r\n")[1:]:
            field = FIELD.fullmatch(text + b"\r\n")
            assert field, text
            fields[field[1].lower()] = field[2]
        found.append(int(line[1]))
        if found[-1] == 100:
            continue
        if b"content-length" in fields:
            size = int(fields[b"content-length"])
            assert len(out) >= size, (head, out)
            out = out[size:]
        elif fields.get(b"transfer-encoding") == b"chunked":
            size = -1
            while size:
                text, _, out = out.partition(b"\r\n")
                size = int(text, 16)
                assert out[size : size + 2] == b"\r\n", (head, out[:200])
                out = out[size + 2 :]
        else:
            assert fields[b"connection"] == b"close", head
            out = b""
    return found


async def answered(port: int, pieces: list[bytes]) -> bytes:
    """All that comes until the proxy closes. Raises OSError where it resets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writing = asyncio.create_task(written(writer, pieces))
    try:
        return await reader.read(-1)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        writer.transport.abort()


async def written(writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.002)


@pytest.mark.timed
async def test_i22_mutated_requests_get_an_answer_or_an_orderly_end(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    seeds = valid_requests()
    times = {"head_timeout": "0.5", "idle_timeout": "0.5", "body_gap_timeout": "0.5"}
    statuses: Counter[int] = Counter()
    gate = asyncio.Semaphore(AT_ONCE)
    longest = 0.0

    async def one(port: int, pieces: list[bytes]) -> None:
        nonlocal longest
        async with gate:
            began = time.monotonic()
            try:
                out = await asyncio.wait_for(answered(port, pieces), LONGEST)
                found = statuses_of(out)
            except (OSError, TimeoutError, AssertionError) as error:
                raise AssertionError(f"{error!r} after {b''.join(pieces)[:3000]!r}") from error
            longest = max(longest, time.monotonic() - began)
            assert all(status < 500 for status in found), (pieces, out[-1000:])
            statuses.update(found or [0])

    with (
        running_simulator(tmp_path, "--fast") as simulator,
        running_proxy(tmp_path, simulator, log_level="info", **times) as proxy,
    ):
        for data in seeds:
            await one(proxy.port, [data])
        assert set(statuses) <= {100, 200}, statuses
        statuses.clear()
        work = []
        for number in range(REQUESTS):
            data = seeds[number % len(seeds)]
            for _ in range(chance.choice((1, 1, 2, 4))):
                data = mutated(chance, data, seeds)
            work.append(one(proxy.port, split(chance, data)))
        await asyncio.gather(*work)
        assert simulator.wait_until_free(5) < 1.0
        answer = proxy.http.post("/v1/chat/completions", json=body("chat", GPT, "Hello!"))
        assert answer.status_code == 200
        log = "".join(proxy.lines)
    assert "Traceback" not in log
    assert " bug" not in log
    print(f"\n{dict(statuses)}, longest {longest:.1f} s")
    assert statuses[200] > 300
    assert statuses[400] > 300
