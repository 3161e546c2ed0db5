"""The attempt loop: which deployment is asked, with what, and whether another one is asked after it.

Until the first content event nothing of an attempt leaves the proxy, so any fault that is not the client's own can be
mended by another deployment. After it, a fault is an error event of the client's dialect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Protocol

import msgspec
from msgspec import Struct

from aicore_proxy.backends.refusal import empty_answer, fault_of, unreadable_answer
from aicore_proxy.gateway.asking import Asked, Asking, answering, breathe
from aicore_proxy.gateway.call import Attempt, Call
from aicore_proxy.gateway.queues import Queues
from aicore_proxy.gateway.record import Observer
from aicore_proxy.gateway.refusals import HOP, looped
from aicore_proxy.gateway.ways import Ways
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol import surrogates
from aicore_proxy.protocol.dialects import Dialect
from aicore_proxy.protocol.estimate import estimated
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import Failure, Undo, Usage
from aicore_proxy.protocol.pipe import Pipe, translate_response
from aicore_proxy.routing.outcome import Outcome, outcome_of
from aicore_proxy.routing.router import Router
from aicore_proxy.sap.token import TokenError
from aicore_proxy.upstream import Phase, Timeouts, Upstream, UpstreamError, UpstreamRequest, UpstreamResponse

ERROR_LIMIT = 64 * 1024
ANSWER_LIMIT = 64 * 1024 * 1024
LARGE = 256 * 1024
EVENT = b"data: "
"""What every frame of a stream has."""
CLIENT_TYPE = "sap-ai-core-llm-proxy"
NO_UNDO = Undo()
UNREACHED = frozenset({Phase.CONNECT, Phase.TLS, Phase.PROXY, Phase.CONNECT_TIMEOUT})
"""Where a request failed on the way to the deployment."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Tokens(Protocol):
    """One subaccount's access tokens. ``token`` raises TokenError."""

    async def token(self) -> str: ...

    def refused(self, token: str) -> object:
        """A deployment answered 401 to ``token``."""
        ...


class Patience(Struct, frozen=True):
    """How long to wait, in seconds. ``stream_head``: for the head of a stream while another way is open; ``recovery``:
    for a deployment to cool down, where all of the model's do."""

    connect: float = 10.0
    first_byte: float = 600.0
    stream_head: float = 120.0
    between_bytes: float = 600.0
    recovery: float = 10.0


class Attempts:
    """Runs calls. Owns nothing that changes but what its parts own themselves.

    ``first_byte``: seconds for the first byte of a model's answers (SAP's name), where it has some of its own. ``hop``:
    stands on every request to a deployment; an answer that has it too is our own.
    """

    def __init__(
        self,
        *,
        router: Router,
        asking: Asking,
        tokens: Mapping[str, Tokens],
        upstream: Upstream,
        observer: Observer,
        patience: Patience,
        gone_missing: Callable[[Deployment], None],
        queues: Queues,
        hop: str,
        first_byte: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        self._router = router
        self._queues = queues
        self._asking = asking
        self._tokens = tokens
        self._upstream = upstream
        self._observer = observer
        self._patience = patience
        self._gone_missing = gone_missing
        self._first_byte = first_byte
        self._hop = hop
        self._headers = (("Content-Type", "application/json"), ("AI-Client-Type", CLIENT_TYPE), (HOP, hop))

    async def whole(self, call: Call) -> bytes:
        """An answer that is not streamed, as the client's dialect has it. Raises the best Fault there was."""
        first: Fault | None = None
        while True:
            try:
                return await self._of_one_model(call)
            except Fault as fault:
                first = first or fault
                if not call.fall_back(fault):
                    raise first from None

    async def _of_one_model(self, call: Call) -> bytes:
        ways = self._ways(call)
        while (attempt := await ways.following()) is not None:
            try:
                answer = await self._whole(call, attempt, ways)
                self._settle(call, attempt, ways, Outcome.OK)
                return answer
            except (Fault, UpstreamError) as error:
                ways.failed(self._failed(call, attempt, ways, error))
            finally:
                self._settle(call, attempt, ways, Outcome.CANCELLED)
        raise ways.verdict()

    async def _whole(self, call: Call, attempt: Attempt, ways: Ways) -> bytes:
        asked, response = await self._answering(call, attempt, ways)
        ways.answering(attempt)
        try:
            with call.waiting():
                async with asyncio.timeout(max(0.001, call.deadline - time.monotonic())):
                    body = await response.read(ANSWER_LIMIT)
            return await self._answer(call, attempt, asked, response, body)
        except TimeoutError:
            raise late() from None
        finally:
            await response.close()

    def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """An answer in frames of the client's dialect. The first piece comes with the first content; until then it
        raises the best Fault there was. Later faults are frames too."""
        return self._falling_back(call) if call.may_fall_back else self._stream(call)

    async def _falling_back(self, call: Call) -> AsyncGenerator[bytes, None]:
        first: Fault | None = None
        while True:
            try:
                async with aclosing(self._stream(call)) as frames:
                    async for frame in frames:
                        yield frame
                return
            except Fault as fault:
                first = first or fault
                if not call.fall_back(fault):
                    raise first from None

    async def _stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Of one model."""
        ways = self._ways(call)
        while (attempt := await ways.following()) is not None:
            try:
                asked, response = await self._answering(call, attempt, ways)
                asked = asked.sent()
                try:
                    async with aclosing(self._frames(call, attempt, asked, response, ways)) as frames:
                        async for frame in frames:
                            yield frame
                finally:
                    await response.close()
                return
            except (Fault, UpstreamError) as error:
                ways.failed(self._failed(call, attempt, ways, error))
            finally:
                self._settle(call, attempt, ways, Outcome.CANCELLED)
        raise ways.verdict()

    def _ways(self, call: Call) -> Ways:
        # Nobody waits where another model may answer at once
        wait = 0.0 if call.may_fall_back else self._patience.recovery
        return Ways(call, self._router, self._queues, self._observer, wait)

    async def _answering(self, call: Call, attempt: Attempt, ways: Ways) -> tuple[Asked, UpstreamResponse]:
        """What the deployment was asked, and its answer with a status of success. If it says what it does not take, it
        is asked once more without. Raises Fault."""
        asked = await self._asking.asked(call, attempt)
        try:
            response = await self._send(call, attempt, asked, ways)
        except Fault as fault:
            if not self._asking.learned(call, attempt, asked, fault):
                raise
            asked = await self._asking.asked(call, attempt)
            try:
                response = await self._send(call, attempt, asked, ways)
            except Fault as further:
                self._asking.learned(call, attempt, asked, further)  # for the next request
                raise
        self._asking.took(attempt, asked)
        return asked, response

    async def _send(self, call: Call, attempt: Attempt, asked: Asked, ways: Ways) -> UpstreamResponse:
        """The deployment's answer with a status of success. Raises Fault."""
        tokens = self._tokens[attempt.deployment.subaccount]
        left = call.deadline - time.monotonic()
        if (head := self._first_byte(attempt.deployment.model)) is None:
            head = self._patience.stream_head if call.stream and ways.open else self._patience.first_byte
        timeouts = Timeouts(self._patience.connect, max(0.001, min(head, left)), self._patience.between_bytes)
        with call.waiting():
            token = await _token(tokens, left, attempt)
            response = await self._upstream.send(self._request(attempt.deployment, asked, token, timeouts))
            if response.status == 401:
                await response.close()
                tokens.refused(token)
                token = await _token(tokens, left, attempt)
                response = await self._upstream.send(self._request(attempt.deployment, asked, token, timeouts))
        attempt.first_byte = time.monotonic()
        if 200 <= response.status < 300:
            return response
        try:
            body = await response.read(ERROR_LIMIT)
        finally:
            await response.close()
        if response.headers.get(HOP) == self._hop:
            raise looped(f"the address of the deployment {attempt.deployment}")
        fault = fault_of(asked.source, response.status, response.headers, body, time.time())
        if fault.code == "upstream_deployment_not_found" or response.status == 403:
            attempt.missing = True
            self._gone_missing(attempt.deployment)
        raise fault

    def _request(self, deployment: Deployment, asked: Asked, token: str, timeouts: Timeouts) -> UpstreamRequest:
        headers = (
            ("Authorization", f"Bearer {token}"),
            ("AI-Resource-Group", deployment.resource_group),
            *self._headers,
            *asked.prepared.headers,
        )
        return UpstreamRequest("POST", deployment.url + asked.prepared.path, headers, asked.prepared.body, timeouts)

    async def _answer(
        self, call: Call, attempt: Attempt, asked: Asked, response: UpstreamResponse, body: bytes
    ) -> bytes:
        if not body.strip():
            raise empty_answer(response.status)
        try:
            members = _members.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            if (better := surrogates.mended(body)) is not None:
                return await self._answer(call, attempt, asked, response, better)
            raise unreadable_answer(body, response.headers) from None
        if not any(name in members for name in asked.answers or asked.source.answers):
            # An error inside a 200, which the dialect's stream has too
            failures = [e.fault for e in asked.source.stream_decoder().feed(body) if isinstance(e, Failure)]
            raise failures[0] if failures and "error" in members else unreadable_answer(body, response.headers)
        attempt.usage = usage_in(asked.source, members)
        if asked.source is call.dialect:
            return body if attempt.usage is not None else counted(call, body, members)
        await breathe(call)
        observe = call.seals.watcher(call.caller.key_id) if call.slotless else None
        answer = translate_response(asked.source, call.dialect, body, answering(call, asked.undo), observe)
        return msgspec.json.encode(answer)

    async def _frames(
        self, call: Call, attempt: Attempt, asked: Asked, response: UpstreamResponse, ways: Ways
    ) -> AsyncGenerator[bytes, None]:
        """What goes to the client of one attempt. Raises its Fault while another deployment may still answer."""
        content_type = response.headers.get("content-type", "")
        if "text/html" in content_type:
            raise unreadable_answer(await response.read(ERROR_LIMIT), response.headers)
        pipe = asked.pipe(call, content_type)
        chunks = response.chunks()
        events = 0
        try:
            with call.waiting():
                first = await _first_content(chunks, pipe, call.deadline)
            ways.answering(attempt)
            attempt.first_content = time.monotonic()
            events += first.count(EVENT)
            yield first
            async for chunk in chunks:
                if (frame := pipe.feed(chunk)) != b"":
                    events += frame.count(EVENT)
                    yield frame
                if pipe.finished:
                    break
            if (last := pipe.end()) != b"":
                yield last
        except UpstreamError as error:
            if not pipe.started:
                raise
            fault = fault_of_connection(error, attempt.deployment)
            yield pipe.fail(fault)
            self._settle(call, attempt, ways, Outcome.UNAVAILABLE, fault, "cut")
            return
        finally:
            attempt.usage, attempt.events = pipe.usage, events
            if attempt.first_content:
                attempt.last_content = time.monotonic()
        if pipe.fault is None:
            # The terminating chunk is usually here already: read it, and the connection can serve again
            await _drain(chunks)
        outcome = Outcome.OK if pipe.fault is None else outcome_of(pipe.fault)
        self._settle(call, attempt, ways, outcome, pipe.fault)

    def _failed(self, call: Call, attempt: Attempt, ways: Ways, error: Fault | UpstreamError) -> Fault:
        """Settles a failed attempt. Its Fault, if another deployment may answer instead; else raises it."""
        if isinstance(error, UpstreamError):
            fault = fault_of_connection(error, attempt.deployment)
            attempt.edge = error.phase in UNREACHED
        else:
            fault = error
        outcome = outcome_of(fault)
        if fault.kind is Kind.TIMEOUT and call.hurried and time.monotonic() >= call.deadline:
            outcome = Outcome.CANCELLED  # the client had no more time: that says nothing of the deployment
        self._settle(call, attempt, ways, outcome, fault, fault.code or fault.kind.value)
        if not fault.elsewhere:
            raise fault from None
        return fault

    def _settle(
        self, call: Call, attempt: Attempt, ways: Ways, outcome: Outcome, fault: Fault | None = None, reason: str = ""
    ) -> None:
        """The attempt's end; the first one counts."""
        if attempt.outcome is None:
            attempt.outcome = outcome
            attempt.reason = reason
            attempt.kind = fault.kind.value if fault is not None else ""
            attempt.ended = time.monotonic()
            ways.end(attempt, outcome, fault)
            self._observer.attempted(call, attempt)


def usage_in(dialect: Dialect, members: Mapping[str, msgspec.Raw]) -> Usage | None:
    """The tokens that a whole answer counts. Never raises."""
    try:
        return dialect.decode_usage(
            {name: msgspec.json.decode(members[name]) for name in dialect.counts if name in members}
        )
    except (Fault, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def counted(call: Call, body: bytes, members: Mapping[str, msgspec.Raw]) -> bytes:
    """A relayed answer that told no tokens, with an estimate where the client's protocol demands some."""
    if call.dialect.counted is None:
        return body

    def usage() -> Usage:
        try:
            request = call.request
        except Fault:  # what the deployment took we need not understand
            request = answering(call).request
        return estimated(request, sum(len(members.get(name, b"")) for name in call.dialect.answers))

    return call.dialect.counted(body, usage)


def fault_of_connection(error: UpstreamError, deployment: Deployment) -> Fault:
    """The Fault of a connection that failed before or during an answer."""
    words = f"The connection to SAP AI Core (subaccount {deployment.subaccount}) failed: {error}"
    match error.phase:
        case Phase.CONNECT_TIMEOUT | Phase.FIRST_BYTE_TIMEOUT | Phase.BETWEEN_BYTES_TIMEOUT:
            return Fault(Kind.TIMEOUT, words, code="timeout")
        case _:
            return Fault(Kind.UPSTREAM_FAILED, words, code="upstream_error")


def late() -> Fault:
    return Fault(Kind.TIMEOUT, "No content came within the deadline.", code="timeout")


async def _first_content(chunks: AsyncIterator[bytes], pipe: Pipe, deadline: float) -> bytes:
    """What to send first. Raises the upstream's Fault while another deployment may still answer."""
    held = bytearray()
    try:
        async with asyncio.timeout(max(0.001, deadline - time.monotonic())):
            async for chunk in chunks:
                held += pipe.feed(chunk)
                if pipe.started or pipe.finished or pipe.fault is not None:
                    break
            else:
                held += pipe.end()
    except TimeoutError:
        raise late() from None
    if not pipe.started:
        raise pipe.fault or Fault(Kind.UPSTREAM_FAILED, "SAP AI Core closed the stream before any content.")
    return bytes(held)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    try:
        async with asyncio.timeout(0.1):
            await anext(chunks, None)
    except (TimeoutError, UpstreamError):
        return


async def _token(tokens: Tokens, seconds: float, attempt: Attempt) -> str:
    try:
        async with asyncio.timeout(max(0.001, seconds)):
            return await tokens.token()
    except TokenError as error:
        attempt.no_token = True
        words = f"SAP AI Core gives the proxy no access token: {error}"
        raise Fault(Kind.UPSTREAM_FAILED, words, code="upstream_credentials") from None
    except TimeoutError:
        raise Fault(Kind.TIMEOUT, "SAP's token service did not answer in time.", code="timeout") from None
