"""One tiny call of a deployment in one of the clients' protocols, by the very code that serves it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from aicore_proxy.backends import Ask, Backend, Prepared
from aicore_proxy.backends.served import is_embedding
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.dialects import Answering, Decoding, Dialect, Target
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault
from aicore_proxy.protocol.framing import framer_for
from aicore_proxy.protocol.neutral import Request, Undo
from aicore_proxy.protocol.pipe import Pipe, Relay, Translation, translate_response
from aicore_proxy.protocol.profiles import profile_of
from aicore_proxy.protocol.seal import carried, native
from aicore_proxy.sap.ai_api import decode, words_of
from aicore_proxy.sap.token import TokenError, TokenProvider
from aicore_proxy.server.families import BACKENDS, DIALECTS, EMBEDDERS
from aicore_proxy.upstream import Phase, Timeouts, Upstream, UpstreamError, UpstreamRequest, UpstreamResponse

PROMPT = "Reply with: ok"
MOST = 16
"""Tokens that may be answered."""
LIMIT = 4 * 1024 * 1024
OUT_OF_TOKENS = re.compile(r"max_tokens or model output limit was reached", re.IGNORECASE)
"""How Azure refuses when a model thought all of ``MOST``: it answered, and that is all that is asked."""


class Asking(Struct, frozen=True):
    """A protocol to ask in. ``name``: in one word, for people."""

    name: str
    dialect: str
    stream: bool = False


CHAT = Asking("chat", "openai_chat")
MESSAGES = Asking("messages", "anthropic_messages", stream=True)
EMBEDDINGS = Asking("embeddings", "")


class Called(Struct, frozen=True):
    """What became of a call. ``problem``: why it failed, empty where it did not. ``status``: of SAP's answer, None
    where there was none; ``phase``: where it failed then."""

    deployment: Deployment
    asking: Asking
    seconds: float
    problem: str = ""
    status: int | None = None
    phase: Phase | None = None


def askings(model: str) -> Iterable[Asking]:
    """How a model is asked: both protocols of chat clients, one of them streaming; or for embeddings."""
    return (EMBEDDINGS,) if is_embedding(model) else (CHAT, MESSAGES)


async def call(
    upstream: Upstream, tokens: TokenProvider, deployment: Deployment, asking: Asking, seconds: float
) -> Called:
    """Asks once, for at most ``seconds``. Never raises."""
    began = time.monotonic()
    status: int | None = None
    problem, phase = "", None
    try:
        async with asyncio.timeout(seconds):
            asked = _asked(deployment, asking)
            response = await upstream.send(_request(deployment, asked.prepared, await tokens.token(), seconds))
            status = response.status
            try:
                problem = await _verdict(asked, response, deployment)
            finally:
                await response.close()
    except UpstreamError as error:
        problem, phase = error.message, error.phase
    except TokenError as error:
        problem = error.message
    except Fault as fault:
        problem = fault.message
    except TimeoutError:
        problem, phase = f"no answer within {seconds:g} s", Phase.FIRST_BYTE_TIMEOUT
    failed_status = status if problem and status is not None and not 200 <= status < 300 else None
    return Called(deployment, asking, time.monotonic() - began, problem, failed_status, phase)


class _Asked(Struct, frozen=True):
    """A request and how its answer is read: ``client`` asked, ``source`` is what the deployment speaks."""

    asking: Asking
    prepared: Prepared
    client: Dialect | None = None
    source: Dialect | None = None
    undo: Undo = Undo()


def _asked(deployment: Deployment, asking: Asking) -> _Asked:
    """Raises Fault."""
    if asking is EMBEDDINGS:
        body = msgspec.json.encode({"model": deployment.model, "input": "ok"})
        return _Asked(asking, EMBEDDERS[deployment.executable](Envelope.parse(body)))
    backend: Backend = BACKENDS[deployment.executable]
    client, source = DIALECTS[asking.dialect], DIALECTS[backend.dialect]
    turn = {"role": "user", "content": PROMPT}
    body = msgspec.json.encode(
        {"model": deployment.model, "max_tokens": MOST, "messages": [turn], "stream": asking.stream}
    )
    envelope, ask = Envelope.parse(body), Ask(asking.stream)
    if source is client:
        return _Asked(asking, backend.relayed(envelope, deployment, ask), client, source)
    request = client.decode_request(envelope.decoded(), Decoding(deployment.model, asking.stream))
    profile = profile_of(deployment.model)
    encoded = source.encode_request(request, Target(deployment.model, profile, native(profile.family)))
    return _Asked(asking, backend.translated(encoded, deployment, ask), client, source, encoded.undo)


def _request(deployment: Deployment, prepared: Prepared, token: str, seconds: float) -> UpstreamRequest:
    headers = (
        ("Authorization", f"Bearer {token}"),
        ("AI-Resource-Group", deployment.resource_group),
        ("Content-Type", "application/json"),
        ("AI-Client-Type", "sap-ai-core-llm-proxy"),
        *prepared.headers,
    )
    limits = Timeouts(connect=min(10.0, seconds), first_byte=seconds, between_bytes=seconds)
    return UpstreamRequest("POST", deployment.url + prepared.path, headers, prepared.body, limits)


async def _verdict(asked: _Asked, response: UpstreamResponse, deployment: Deployment) -> str:
    """What is wrong with an answer; empty where nothing is. Raises Fault, UpstreamError."""
    if not 200 <= response.status < 300:
        body = await response.read(64 * 1024)
        words = words_of(decode(body), body)
        return "" if response.status == 400 and OUT_OF_TOKENS.search(words) else f"{response.status} {words}"
    if asked.client is None or asked.source is None:
        value = decode(await response.read(LIMIT))
        fine = isinstance(value, dict) and isinstance(value.get("data"), list) and value["data"]
        return "" if fine else "the answer holds no embeddings"
    answering = Answering(Request(asked.client.name, deployment.model, ()), carried(asked.client.home), asked.undo)
    if asked.asking.stream:
        return await _streamed(asked.client, asked.source, response, answering)
    body = await response.read(LIMIT)
    value = decode(body)
    if not isinstance(value, dict) or not any(name in value for name in asked.source.answers):
        return f"the answer is not one of the model: {words_of(value, body)}"
    translate_response(asked.source, asked.client, value, answering)
    return ""


async def _streamed(client: Dialect, source: Dialect, response: UpstreamResponse, answering: Answering) -> str:
    framer = framer_for(response.headers.get("content-type", ""))
    pipe: Pipe = (
        Relay(client, framer, answering) if source is client else Translation(source, client, framer, answering, None)
    )
    async for chunk in response.chunks():
        pipe.feed(chunk)
        if pipe.finished or pipe.fault is not None:
            break
    else:
        pipe.end()
    return pipe.fault.message if pipe.fault is not None else "" if pipe.started else "the stream ended without content"
