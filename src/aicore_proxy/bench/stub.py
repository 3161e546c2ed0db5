"""The upstream that all are measured on: the least of SAP AI Core that a proxy needs, as cheap as can be.

``python -m aicore_proxy.bench.stub`` reads a StubPlan as JSON from its standard input, prints ``{"ports": {…}}`` and
serves until that input closes. Ports: ``plain`` and ``tls`` keep connections, ``plain-close`` and ``tls-close`` close
them after each answer. A prompt that holds ``bench:stream:<events>:<per second>`` asks for a stream of that many
events, at that rate (0: all at once; no events: silence after the first). Shapes: SAP AI Core wire facts, sections 1 to
5. No part of it is a simulation: that is the simulator's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence

import msgspec
import uvloop
from msgspec import Struct

MODELS = {
    "gpt": ("dbench0000000gpt", "azure-openai", "gpt-4o"),
    "claude": ("dbench000000clau", "aws-bedrock", "anthropic--claude-4.5-sonnet"),
    "gemini": ("dbench000000gemi", "gcp-vertexai", "gemini-2.5-pro"),
}
"""Family: deployment, executable and model."""
FOUR = {"well": "gpt-4.1", "sick": "gpt-4.1-mini"}
"""Models with four deployments each; of ``sick`` the first fails always."""
MARK = re.compile(rb"bench:stream:(\d+):(\d+)")
NEEDLE = b"bench:stream:"
VARIETY = 50
WORD = "token-word"
"""What each streamed event's text begins with: by it events are counted."""
ANSWER = "This is an answer of some length, as a model would give it. " * 8
TIMER = 0.001
"""Seconds: events that are due within it are sent in one turn."""


class StubPlan(Struct, frozen=True):
    """``certificate``, ``key``: PEM files; empty: no TLS ports."""

    certificate: str = ""
    key: str = ""


def texts() -> Iterator[str]:
    """What the events say."""
    return (f"{WORD} {number} of it" for number in range(VARIETY))


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Family(Struct, frozen=True):
    """How one family answers: a whole body, and a stream's frames."""

    whole: bytes
    opening: bytes
    events: tuple[bytes, ...]
    """In turn: a proxy may take a model that repeats itself for one that has run wild (LiteLLM does after 100)."""
    ending: bytes
    status: bytes = b"200 OK"
    """Of whole answers."""


def four(name: str) -> tuple[str, ...]:
    """The deployments of a model of FOUR."""
    return tuple(f"dbench00000{name}{number}" for number in range(4))


def sse(*events: object, after: bytes = b"") -> bytes:
    return b"".join(b"data: " + compact(event) + b"\n\n" for event in events) + after


def gpt() -> Family:
    base = {"id": "chatcmpl-bench", "created": 1764000000, "model": "gpt-4o-2024-11-20", "system_fingerprint": "fp_1"}
    usage = {"prompt_tokens": 200, "completion_tokens": 100, "total_tokens": 300}
    message = {"role": "assistant", "content": ANSWER, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    streamed = base | {"object": "chat.completion.chunk"}

    def chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, object]:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return streamed | {"choices": choices, "usage": None}

    return Family(
        compact(base | {"object": "chat.completion", "choices": [choice], "usage": usage}),
        sse(chunk({"role": "assistant", "content": ""})),
        tuple(sse(chunk({"content": text})) for text in texts()),
        sse(chunk({}, "stop"), streamed | {"choices": [], "usage": usage}, after=b"data: [DONE]\n\n"),
    )


def claude() -> Family:
    base = {"id": "msg_bdrk_bench", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929"}
    usage = {"input_tokens": 200, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 100}
    done = {"stop_reason": "end_turn", "stop_sequence": None}
    begun: dict[str, object] = base | {
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage | {"output_tokens": 1},
    }
    deltas = ({"type": "text_delta", "text": text} for text in texts())
    return Family(
        compact(base | {"content": [{"type": "text", "text": ANSWER}], "usage": usage} | done),
        sse(
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ),
        tuple(sse({"type": "content_block_delta", "index": 0, "delta": delta}) for delta in deltas),
        sse(
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": done, "usage": {"output_tokens": 100}},
            {"type": "message_stop"},
        ),
    )


def gemini() -> Family:
    base = {"modelVersion": "gemini-2.5-pro", "responseId": "bench"}
    usage = {"promptTokenCount": 200, "candidatesTokenCount": 100, "totalTokenCount": 300}

    def candidate(text: str, **more: str) -> dict[str, object]:
        return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}], **base}

    return Family(
        compact(candidate(ANSWER, finishReason="STOP") | {"usageMetadata": usage}),
        b"",
        tuple(sse(candidate(text)) for text in texts()),
        sse(candidate("", finishReason="STOP") | {"usageMetadata": usage}),
    )


def failing() -> Family:
    error = {"error": {"message": "The server had an error.", "type": "server_error", "code": None, "param": None}}
    return Family(compact(error), b"", (sse(error),), b"", b"500 Internal Server Error")


class Stub:
    """The answers, ready made, and the streams that are paced. Owns the timers of its event loop."""

    def __init__(self) -> None:
        made = {"gpt": gpt(), "claude": claude(), "gemini": gemini()}
        self.families = {MODELS[name][0].encode(): family for name, family in made.items()}
        self.families |= {identity.encode(): made["gpt"] for name in FOUR for identity in four(name)}
        self.families[four("sick")[0].encode()] = failing()
        self.chunks = {family: tuple(map(chunked, family.events)) for family in made.values()}
        self.token = compact({"access_token": "bench.stub.token", "token_type": "bearer", "expires_in": 43199})
        self.loop = asyncio.get_running_loop()

    def managed(self, path: bytes, authority: str, scheme: str) -> bytes | None:
        """The answer of the token service and the AI API, None where there is none."""
        if path.startswith(b"/oauth/token"):
            return self.token
        if path.startswith(b"/v2/admin/resourceGroups"):
            return compact({"count": 1, "resources": [{"resourceGroupId": "default", "status": "PROVISIONED"}]})
        if path.startswith(b"/v2/lm/deployments"):
            found = list(deployments(f"{scheme}://{authority}"))
            return compact({"count": len(found), "resources": found})
        if path.startswith(b"/v2/lm/"):
            return compact({"count": 0, "resources": []})
        return None


def deployments(base: str) -> Iterator[dict[str, object]]:
    of_four = [(identity, "azure-openai", model) for name, model in FOUR.items() for identity in four(name)]
    for deployment, executable, model in (*MODELS.values(), *of_four):
        backend = {"model": {"name": model, "version": "latest"}}
        yield {
            "id": deployment,
            "createdAt": "2026-01-01T00:00:00Z",
            "modifiedAt": "2026-01-01T00:00:00Z",
            "status": "RUNNING",
            "targetStatus": "RUNNING",
            "scenarioId": "foundation-models",
            "executableId": executable,
            "configurationId": "11111111-1111-4111-8111-111111111111",
            "configurationName": model,
            "startTime": "2026-01-01T00:01:00Z",
            "deploymentUrl": f"{base}/v2/inference/deployments/{deployment}",
            "details": {"resources": {"backendDetails": backend, "backend_details": backend}, "scaling": {}},
        }


class Connection(asyncio.Protocol):
    """One connection of a proxy. Owns its transport, and the stream it writes."""

    def __init__(self, stub: Stub, *, close: bool, scheme: str) -> None:
        self._stub = stub
        self._close = close
        self._scheme = scheme
        self._held = bytearray()
        self._needed = 0
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paced: tuple[Sequence[bytes], bytes, int, float] | None = None
        self._sent = 0
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Requests come one after the other. Heads and bodies as HTTP clients write them, with a length or chunked."""
        self._held += data
        if len(self._held) < self._needed:
            return
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._held[:end]).lower()
        if (at := head.find(b"content-length:")) >= 0:
            size = int(head[at + 15 :].partition(b"\r\n")[0])
            self._needed = end + 4 + size
            if len(self._held) < self._needed:
                return
        elif b"transfer-encoding: chunked" in head and not self._held.endswith(b"0\r\n\r\n"):
            return
        whole = bytes(self._held)
        self._held.clear()
        self._needed = 0
        self._answer(whole, whole[: whole.find(b"\r\n")].split(b" ")[1], head, end + 4)

    def _answer(self, whole: bytes, path: bytes, head: bytes, body: int) -> None:
        family = self._stub.families.get(path[26:42]) if path.startswith(b"/v2/inference/deployments/") else None
        if family is None:
            authority = head.partition(b"\r\nhost:")[2].partition(b"\r\n")[0].strip().decode()
            managed = self._stub.managed(path, authority, self._scheme)
            self._whole(b"404 Not Found" if managed is None else b"200 OK", managed or b"{}")
            return
        if (at := whole.find(NEEDLE, body)) >= 0 and (mark := MARK.match(whole, at)) is not None:
            self._stream(family, int(mark[1]), int(mark[2]))
        else:
            self._whole(family.status, family.whole)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _whole(self, status: bytes, body: bytes) -> None:
        connection = b"connection: close\r\n" if self._close else b""
        self._write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\nx-request-id: bench\r\n%scontent-length: %d\r\n\r\n%s"
            % (status, connection, len(body), body)
        )
        if self._close and self._transport is not None:
            self._transport.close()

    def _stream(self, family: Family, events: int, rate: int) -> None:
        connection = b"connection: close\r\n" if self._close else b""
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: bench\r\n%s"
            b"transfer-encoding: chunked\r\n\r\n" % connection
        )
        opening = head + (chunked(family.opening) if family.opening else b"")
        if events == 0:
            self._write(opening + chunked(family.events[0]))
            return
        if rate == 0:
            self._write(opening + b"".join(chunked(family.events[number % VARIETY]) for number in range(events)))
            self._last(family.ending)
            return
        self._write(opening)
        self._paced = self._stub.chunks[family], family.ending, events, 1 / rate
        self._sent, self._began = 0, self._stub.loop.time()
        # Streams that begin together do not send together: a model's do not either
        self._began += (hash(self) >> 4) % 1000 / 1000 / rate
        self._timer = self._stub.loop.call_at(self._began, self._event)

    def _event(self) -> None:
        if self._paced is None:
            return
        chunks, ending, events, pause = self._paced
        now = self._stub.loop.time()
        while self._sent < events and self._began + self._sent * pause <= now + TIMER:
            self._write(chunks[self._sent % VARIETY])
            self._sent += 1
        if self._sent < events:
            self._timer = self._stub.loop.call_at(self._began + self._sent * pause, self._event)
        else:
            self._paced = None
            self._last(ending)

    def _last(self, ending: bytes) -> None:
        self._write(chunked(ending) + b"0\r\n\r\n")
        if self._close and self._transport is not None:
            self._transport.close()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(plan: StubPlan, announce: Callable[[dict[str, int]], None]) -> None:
    """Serves until the standard input closes."""
    loop = asyncio.get_running_loop()
    stub = Stub()
    ports: dict[str, int] = {}
    servers: list[asyncio.Server] = []
    context = None
    if plan.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(plan.certificate, plan.key)
    for scheme, tls in (("plain", None), ("tls", context)):
        if scheme == "tls" and tls is None:
            continue
        for name, close in ((scheme, False), (f"{scheme}-close", True)):
            server = await loop.create_server(
                lambda close=close, tls=tls: Connection(stub, close=close, scheme="http" if tls is None else "https"),
                "127.0.0.1",
                0,
                ssl=tls,
                backlog=4096,
            )
            servers.append(server)
            ports[name] = server.sockets[0].getsockname()[1]
    announce(ports)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    for server in servers:
        server.close()


def main() -> None:
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=StubPlan)

    def announce(ports: dict[str, int]) -> None:
        sys.stdout.write(json.dumps({"ports": ports}) + "\n")
        sys.stdout.flush()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(plan, announce))


if __name__ == "__main__":
    main()
