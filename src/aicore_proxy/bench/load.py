"""The load itself: raw asyncio protocols on one event loop, some ten microseconds of CPU per request.

Without a rate the loop is closed: a connection asks again when it has its answer, so a slow endpoint is asked less
often and its worst moments are seen by few requests. With a rate, requests are due at fixed times whatever the
endpoint does, and ``waited`` counts from then: what waits for a free connection is not omitted.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from aicore_proxy.bench.reading import Answer, BrokenAnswerError, Frames
from aicore_proxy.bench.tally import STALL, Plan, Progress, Tally
from aicore_proxy.bench.target import CONTENT, LAST, body_of, request_of, target_of

SWEEP = 0.5
"""Seconds between two looks for requests that time out."""
RETRY = 0.05
"""Seconds before a connection that failed is opened again."""
STEP = 0.001
"""Seconds between two looks for requests that are due."""

clock = time.perf_counter


class Load:
    """One run of a Plan. Owns its connections, its tally and what is due."""

    def __init__(self, plan: Plan, report: Callable[[Progress], None] = lambda _: None) -> None:
        """Raises ValueError for a plan that makes no request."""
        self.plan = plan
        self.tally = Tally()
        self.target = target_of(plan.url, plan.protocol)
        body = body_of(
            plan.protocol, plan.model, plan.size, stream=plan.stream, max_tokens=plan.max_tokens, note=plan.note
        )
        self.request = request_of(self.target, plan.key, body, close=plan.fresh)
        self.content = re.compile(plan.content.encode() if plan.content else CONTENT[plan.protocol])
        self.last = plan.last.encode() if plan.last else LAST[plan.protocol]
        self.busy: set[Client] = set()
        self._clients: set[Client] = set()
        self._report = report
        self._tls = tls_of(plan) if self.target.tls else None
        self._slots: asyncio.Queue[float | None] = asyncio.Queue()
        self._idle: deque[Client] = deque()
        self._due: deque[float] = deque()
        self._stopping = asyncio.Event()
        self._opened = asyncio.Event()
        self._warming = plan.warm is not None
        self._over = False
        self._started = 0.0

    async def run(self) -> Tally:
        """Everything, until the plan's end; ``stop`` ends it earlier."""
        self._started = clock()
        own = time.process_time()
        for _ in range(self.plan.connections):
            self._slots.put_nowait(None)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._open()) for _ in range(min(self.plan.opening, self.plan.connections))]
            tasks += [group.create_task(self._progress()), group.create_task(self._sweep())]
            if self.plan.rate is not None:
                tasks.append(group.create_task(self._pace(self.plan.rate)))
            if self.plan.warm is not None:
                await self._warm(self.plan.warm)
                own = time.process_time()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.plan.duration):
                    await self._stopping.wait()
            self._over = True
            await self._finish()
            for task in tasks:
                task.cancel()
        self.tally.unfinished = len(self.busy) + len(self._due)
        self.tally.elapsed = clock() - self._started
        self.tally.own_cpu = time.process_time() - own
        self._tell()
        self.busy.clear()
        for client in tuple(self._clients):
            client.discard()
        return self.tally

    def stop(self) -> None:
        """No further request; what is under way may end within the plan's grace, or until a second call."""
        self._stopping.set()

    # --- what the clients tell

    def free(self, client: Client, since: float | None) -> None:
        """``client`` has a connection and nothing to do. ``since``: when the slot became free, if the time for the
        connection counts."""
        if self.plan.rate is not None:
            if self._due and not self._over:
                self._begin(client, self._due.popleft(), since)
            else:
                self._idle.append(client)
        elif not self._over:
            self._begin(client, None, since)

    def lost(self, client: Client, since: float | None) -> None:
        """The connection is gone: another takes its place."""
        self._clients.discard(client)
        if not self._over and not self._stopping.is_set():
            self._slots.put_nowait(since)

    def ended(self, client: Client) -> None:
        """A request has ended, one way or the other."""
        self.busy.discard(client)
        if self._over and not self.busy:
            self._stopping.set()

    def _begin(self, client: Client, due: float | None, since: float | None) -> None:
        count = self.plan.count
        if count is not None and self.tally.begun >= count:
            return
        self.tally.begun += 1
        self.busy.add(client)
        client.ask(due, since)
        if count is not None and self.tally.begun >= count:
            self.stop()

    # --- tasks

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            since = await self._slots.get()
            began = clock() if since is None else since
            try:
                async with asyncio.timeout(self.plan.timeout):
                    await loop.create_connection(
                        lambda began=began: self._client(began),
                        self.target.host,
                        self.target.port,
                        ssl=self._tls,
                        server_hostname=self.target.host if self._tls is not None else None,
                    )
                self.tally.connections += 1
                if self.tally.connections >= self.plan.connections:
                    self._opened.set()
            except (OSError, TimeoutError) as error:
                if self._over or (self.plan.count is not None and self.tally.begun >= self.plan.count):
                    continue
                self.tally.begun += 1
                self.tally.failures[cause(error)] += 1
                if self.plan.count is not None and self.tally.begun >= self.plan.count:
                    self.stop()
                await asyncio.sleep(RETRY)
                self._slots.put_nowait(None)

    async def _warm(self, seconds: float) -> None:
        """Until all connections are open (or will not be), and then so long; then everything is counted anew."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.plan.timeout):
                await self._opened.wait()
        await asyncio.sleep(seconds)
        self.tally = Tally(begun=len(self.busy), connections=self.tally.connections)
        self._started = clock()
        self._warming = False

    def _client(self, since: float) -> Client:
        client = Client(self, since if self.plan.fresh else None)
        self._clients.add(client)
        return client

    async def _pace(self, rate: float) -> None:
        begun = clock()
        number = 0
        while not self._over:
            now = clock()
            while begun + number / rate <= now:
                due = begun + number / rate
                number += 1
                if self._idle:
                    self._begin(self._idle.popleft(), due, None)
                else:
                    self._due.append(due)
            if self.plan.count is not None and number >= self.plan.count:
                return
            await asyncio.sleep(min(STEP, max(0.0, begun + number / rate - clock())))

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(self.plan.every)
            self._tell()

    def _tell(self) -> None:
        tally = self.tally
        finished = sum(tally.statuses.values()) + sum(tally.failures.values())
        self._report(
            Progress(
                -1.0 if self._warming else clock() - self._started,
                tally.begun,
                finished,
                tally.failed,
                tally.events,
                len(self.busy),
            )
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            late = clock() - self.plan.timeout
            for client in tuple(self.busy):
                if client.touched < late:
                    client.fail("timeout")

    async def _finish(self) -> None:
        self._stopping.clear()
        if self.busy and self.plan.grace > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.plan.grace):
                    await self._stopping.wait()


class Client(asyncio.Protocol):
    """One connection. Owns its transport and the answer it reads."""

    __slots__ = ("_answer", "_asked", "_due", "_frames", "_last_event", "_load", "_since", "_transport", "touched")

    def __init__(self, load: Load, since: float | None) -> None:
        self._load = load
        self._since = since
        self._answer = Answer()
        self._frames: Frames | None = None
        self._transport: asyncio.Transport | None = None
        self._asked = 0.0
        self._due: float | None = None
        self._last_event = 0.0
        self.touched = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._load.free(self, self._since)

    def ask(self, due: float | None, since: float | None) -> None:
        """Sends the request. ``due``: when it should have gone; ``since``: from when its latency counts."""
        self._answer.begin()
        self._frames = None
        self._due = due
        self._last_event = 0.0
        self.touched = clock()
        self._asked = self.touched if since is None else since
        if self._transport is not None:
            self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        load, answer = self._load, self._answer
        if self not in load.busy:
            self.discard()
            return
        self.touched = clock()
        load.tally.received += len(data)
        try:
            body = answer.feed(data)
        except BrokenAnswerError:
            self.fail("malformed answer")
            return
        if answer.streamed and body:
            self._count(body)
        if answer.done:
            self._done()

    def connection_lost(self, error: Exception | None) -> None:
        load = self._load
        self._transport = None
        since = clock() if load.plan.fresh else None
        if self in load.busy:
            if self._answer.end():
                self._settle()
            else:
                load.tally.failures["connection lost" if error is None else cause(error)] += 1
                load.ended(self)
        load.lost(self, since)

    def fail(self, why: str) -> None:
        """The request has no whole answer; the connection goes with it."""
        self._load.tally.failures[why] += 1
        self._load.ended(self)
        self.discard()

    def discard(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _count(self, body: bytes) -> None:
        load = self._load
        if self._frames is None:
            self._frames = Frames(load.content, load.last)
        found = self._frames.feed(body)
        if not found:
            return
        tally = load.tally
        if self._last_event == 0.0:
            tally.first.record(self.touched - self._asked)
        else:
            gap = self.touched - self._last_event
            tally.gaps.record(gap)
            if gap > STALL:
                tally.stalls += 1
        if found > 1:
            tally.gaps.record(0.0, found - 1)
        self._last_event = self.touched
        tally.events += found

    def _done(self) -> None:
        self._settle()
        if self._answer.closes or self._load.plan.fresh:
            if self._transport is not None:
                self._transport.close()
        else:
            self._load.free(self, None)

    def _settle(self) -> None:
        """Counts a whole answer."""
        load, tally = self._load, self._load.tally
        frames = self._frames
        if frames is not None and frames.failed:
            tally.failures["error event in the stream"] += 1
        elif frames is not None and not frames.last:
            tally.failures["stream without its last event"] += 1
        else:
            status = self._answer.status
            tally.statuses[status] += 1
            if 200 <= status < 300:
                tally.succeeded += 1
                tally.latency.record(self.touched - self._asked)
                if self._due is not None:
                    tally.waited.record(self.touched - self._due)
        load.ended(self)


def tls_of(plan: Plan) -> ssl.SSLContext:
    """Raises ValueError."""
    context = ssl.create_default_context()
    try:
        if plan.ca:
            context.load_verify_locations(plan.ca)
    except OSError as error:
        raise ValueError(f"{plan.ca} cannot be read as certificates: {error}") from None
    if not plan.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def cause(error: BaseException) -> str:
    """A failure in words that group."""
    match error:
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionResetError() | BrokenPipeError():
            return "connection reset"
        case TimeoutError():
            return "connection timed out"
        case ssl.SSLCertVerificationError():
            return f"certificate refused: {error.verify_message}"
        case ssl.SSLError():
            return "TLS failed"
        case OSError(errno=number) if number == 24:
            return "too many open files (raise the limit: ulimit -n)"
    return f"connection failed: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}"
