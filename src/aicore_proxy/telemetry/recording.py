"""Recording: the four stages of requests as files, for some client keys or for a time; deleted by themselves.

Where nothing is to be recorded nothing is held, and a request pays for one look at a setting. At debug level the same
tape tells the log how the bodies are built, but not what they say.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from pathlib import Path

import msgspec
from msgspec import Struct

from aicore_proxy.gateway.exchange import ClientRequest, Handler, Head, Reply, StreamReply
from aicore_proxy.gateway.record import Record
from aicore_proxy.protocol.fault import Fault
from aicore_proxy.tasks import Supervisor
from aicore_proxy.telemetry.shapes import shapes_of
from aicore_proxy.telemetry.tape import Recorded, Stage, Tape, hidden
from aicore_proxy.upstream import Upstream, UpstreamError, UpstreamRequest, UpstreamResponse

log = logging.getLogger("aicore_proxy.recording")
bodies = logging.getLogger("aicore_proxy.bodies")

SWEEP = 60.0
"""Seconds between two looks for files that are to be deleted."""
WAITING = 64
"""Requests that wait to be written, at most; of others the recording is lost."""
WARNING = 60.0
"""Seconds between two warnings that requests are not recorded."""
ENDING = ".recording.json"
PART = ".recording.part"
"""Of a file that is being written."""

_tape: ContextVar[Tape | None] = ContextVar("aicore_proxy_tape", default=None)
"""The tape of the request that the running task serves."""


def folder_of(given: str, state: str) -> Path | None:
    """Where recordings are kept: ``given``, else a folder of its own in ``state``; None where there is neither."""
    return Path(given) if given else Path(state) / "recordings" if state else None


class Rules(Struct, frozen=True):
    """What is recorded. ``folder`` None: nothing. ``keys``: names of client keys; ``*``: all. ``until``: Unix seconds,
    0: no end. ``keep``: seconds that files are kept. ``most``: bytes that they may take together."""

    folder: Path | None = None
    keys: tuple[str, ...] = ()
    until: float = 0.0
    keep: float = 86400.0
    most: int = 256 * 1024 * 1024

    def hold(self, now: float) -> bool:
        return self.folder is not None and bool(self.keys) and (self.until == 0 or now < self.until)

    def want(self, key: str) -> bool:
        return "*" in self.keys or key in self.keys


class Recorder:
    """Listens at both ends of the gateway, and owns what waits to be written. ``lost``: told of each request that was
    to be recorded and could not be."""

    def __init__(self, rules: Rules, supervisor: Supervisor, lost: Callable[[], None] = lambda: None) -> None:
        self.rules = rules
        self._lost = lost
        self._supervisor = supervisor
        self._waiting: list[Recorded] = []
        self._writing: asyncio.Task[None] | None = None
        self._warned_at = float("-inf")

    def handler(self, handler: Handler) -> Handler:
        """``handler``, listened to."""

        async def taped(request: ClientRequest) -> Reply | StreamReply:
            if not self.rules.hold(time.time()) and not bodies.isEnabledFor(logging.DEBUG):
                return await handler(request)
            tape = Tape(request)
            request.keeps = True
            _tape.set(tape)
            return listened(await handler(request), tape)

        return taped

    def upstream(self, upstream: Upstream) -> Upstream:
        """``upstream``, listened to. For model calls only: what the token service is asked is secret."""
        return _Taped(upstream)

    def finished(self, record: Record) -> None:
        """A request ended: its tape is written, if it is wanted; at debug level the shapes of its bodies are logged.
        Does not wait."""
        tape = _tape.get()
        if tape is None:
            return
        _tape.set(None)
        wanted = self.rules.hold(time.time()) and self.rules.want(record.key_name)
        if not wanted and not bodies.isEnabledFor(logging.DEBUG):
            return
        recorded = tape.recorded(record.key_name, record.status, record.model)
        if bodies.isEnabledFor(logging.DEBUG):
            bodies.debug("Bodies of %s", record.request_id, extra={"bodies": shapes_of(recorded)})
        if wanted:
            self._keep(recorded)

    def _keep(self, recorded: Recorded) -> None:
        if len(self._waiting) >= WAITING:
            self._lose("the disk is too slow")
            return
        self._waiting.append(recorded)
        if self._writing is None:
            self._writing = self._supervisor.start("recording", self._write())

    async def watch(self) -> None:
        """Deletes what is too old or too much, for ever: work for a Supervisor."""
        while True:
            if (folder := self.rules.folder) is not None:
                await asyncio.to_thread(sweep, folder, self.rules.keep, self.rules.most, time.time())
            await asyncio.sleep(min(SWEEP, max(1.0, self.rules.keep / 4)))

    async def _write(self) -> None:
        try:
            while self._waiting and (folder := self.rules.folder) is not None:
                recorded = self._waiting.pop(0)
                try:
                    await asyncio.to_thread(write, folder, recorded)
                except OSError as error:
                    self._lose(f"{folder} cannot be written: {error.strerror}")
        finally:
            self._writing = None

    def _lose(self, why: str) -> None:
        self._lost()
        now = time.monotonic()
        if now - self._warned_at >= WARNING:
            self._warned_at = now
            log.warning("Requests are not recorded: %s", why)


def write(folder: Path, recorded: Recorded) -> None:
    """Writes a file that only this user may read, as a whole or not at all. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    when = datetime.datetime.fromtimestamp(recorded.time, datetime.UTC).strftime("%Y%m%dT%H%M%S.%f")
    path = folder / f"{when}-{recorded.id}{ENDING}"
    part = path.with_name(path.name.removesuffix(ENDING) + PART)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(recorded), indent=1))
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)  # a full disk needs its room
        raise


def sweep(folder: Path, keep: float, most: int, now: float) -> None:
    """Deletes recordings that are older than ``keep`` seconds, and the oldest of those that take more than ``most``
    bytes together. Files of others in the folder stay. Never raises."""
    found = []
    try:
        for path in (*folder.glob(f"*{ENDING}"), *folder.glob(f"*{PART}")):  # parts: of a process that was killed
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    except OSError:
        return
    taken = 0
    for modified, size, path in sorted(found, reverse=True):
        taken += size
        if now - modified > keep or taken > most:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("The recording %s cannot be deleted: %s", path.name, error)


def listened(reply: Reply | StreamReply, tape: Tape) -> Reply | StreamReply:
    """``reply``, which tells ``tape`` what goes to the client."""
    answer = tape.answer

    def begun(head: Head) -> Head:
        answer.message.status, answer.message.headers = head.status, hidden(head.headers)
        return head

    def refused(whole: Reply) -> Reply:
        begun(Head(whole.status, whole.headers))
        answer.hear(whole.body)
        return whole

    if isinstance(reply, Reply):
        return refused(reply)
    head, refuse, fail = reply.head, reply.refuse, reply.fail

    def failed(fault: Fault) -> bytes:
        last = fail(fault)
        answer.hear(last)
        return last

    reply.head = lambda: begun(head())
    reply.refuse = lambda fault: refused(refuse(fault))
    reply.fail = failed
    reply.chunks = heard(reply.chunks, answer)
    return reply


async def heard(chunks: AsyncIterator[bytes], stage: Stage) -> AsyncGenerator[bytes, None]:
    """``chunks``, each told to ``stage``; closed with it."""
    try:
        async for chunk in chunks:
            stage.hear(chunk)
            yield chunk
    finally:
        if (aclose := getattr(chunks, "aclose", None)) is not None:
            await aclose()


class _Taped:
    """An Upstream that tells the running request's tape."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        tape = _tape.get()
        if tape is None:
            return await self._upstream.send(request)
        stage = tape.sent(request)
        try:
            response = await self._upstream.send(request)
        except UpstreamError as error:
            stage.message.error = str(error)
            raise
        stage.message.status, stage.message.headers = response.status, hidden(response.headers.items())
        return _TapedResponse(response, stage)

    async def close(self) -> None:
        await self._upstream.close()


class _TapedResponse:
    """An UpstreamResponse whose body is told."""

    def __init__(self, response: UpstreamResponse, stage: Stage) -> None:
        self._response = response
        self._stage = stage

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    def values(self, name: str) -> list[str]:
        return self._response.values(name)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(heard(self._response.chunks(), self._stage)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except UpstreamError as error:
            self._stage.message.error = str(error)
            raise

    async def read(self, limit: int) -> bytes:
        try:
            body = await self._response.read(limit)
        except UpstreamError as error:
            self._stage.message.error = str(error)
            raise
        self._stage.hear(body)
        return body

    async def close(self) -> None:
        await self._response.close()


def load(path: Path) -> Recorded:
    """A recording of ``path``. Raises OSError, ValueError."""
    return msgspec.json.decode(path.read_bytes(), type=Recorded)
