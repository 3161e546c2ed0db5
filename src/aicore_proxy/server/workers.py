"""Several workers on one port: their parent starts, watches and replaces them.

It owns the listening sockets, one set per slot, and keeps them over every replacement: a connection that waits in a
slot's queue when its worker dies is served by the next one. It serves nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from itertools import count

from aicore_proxy.server import listen
from aicore_proxy.server.channel import (
    Accept,
    Channel,
    Configure,
    Configured,
    Drain,
    Expose,
    Exposed,
    Family,
    FromWorker,
    Gather,
    Gathered,
    Hint,
    Leaving,
    Listening,
    Message,
    Readiness,
    Retire,
    Start,
    Whole,
    raw,
)
from aicore_proxy.server.merging import lasting, merged
from aicore_proxy.server.stopping import Stopping, Urgency
from aicore_proxy.tasks import Supervisor

log = logging.getLogger("aicore_proxy.workers")

START_TIME = 60.0
"""Seconds for a worker to take connections; for one that replaces another, to be ready."""
SOON = 5.0
"""A worker that ends within so many seconds failed at its start: the next one waits, each time twice as long."""
FIRST_WAIT = 0.25
LONGEST_WAIT = 10.0
TRIES = 3
"""Failed starts in a row of one slot, before any worker ever served, after which all is given up."""
SILENCE = 5.0
"""Seconds of silence after which a connection of a worker that is being replaced is closed."""
BEATS = 6
"""How often in the time after which a worker counts as hung it is asked whether it lives."""
EXPOSE_TIME = 1.0
RELOAD_TIME = 30.0
MARGIN = 5.0
"""Seconds beyond its time after which a worker that was told to end is killed."""


class WorkersError(Exception):
    """Why there is nobody to serve, in a sentence."""


class Worker:
    """A worker process as its parent sees it. Owned by its slot."""

    def __init__(self, slot: Slot, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.slot = slot
        self.process = process
        self.channel = channel
        self.started = asyncio.get_running_loop().time()
        self.listening = asyncio.Event()
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.models: tuple[str, ...] = ()
        self.silent = 0
        """Beats of the pulse since it told anything."""
        self.hung = False
        self.families: tuple[Family, ...] = ()
        """Its metrics, when they were told last."""

    async def until(self, state: asyncio.Event, seconds: float) -> bool:
        """Waits for ``state`` (listening, ready), at most so long, and not when the worker is gone; whether it came."""
        async with asyncio.TaskGroup() as group:
            first = [group.create_task(event.wait()) for event in (state, self.gone)]
            await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in first:
                task.cancel()
        return state.is_set() and not self.gone.is_set()


class Slot:
    """One worker's place: its listening sockets, who serves on them, and who is to take over."""

    def __init__(self, number: int, listeners: list[socket.socket]) -> None:
        self.number = number
        self.listeners = listeners
        self.current: Worker | None = None
        self.next: Worker | None = None
        self.failures = 0
        """Failed starts in a row."""


class Gathering:
    """An answer that is being asked for of all workers. Owned by the task that asks."""

    def __init__(self, waiting: set[Worker]) -> None:
        self.waiting = waiting
        self.complete = asyncio.Event()

    def came(self, worker: Worker) -> None:
        """A worker answered, or is gone."""
        self.waiting.discard(worker)
        if not self.waiting:
            self.complete.set()


class Workers:
    """The parent of all workers. Owns the slots and everything that it knows of those who serve in them."""

    def __init__(
        self,
        slots: list[list[socket.socket]],
        configuration: object,
        *,
        log_level: str,
        drain_delay: float,
        drain_timeout: float,
        hung_after: float = 30.0,
    ) -> None:
        """``configuration``: what workers are built from (configuration.py). ``hung_after``: silence of a worker after
        which it is killed. Times in seconds."""
        self.stopping = Stopping()
        self.first_ready = asyncio.Event()
        """Set once all workers are ready for the first time."""
        self._slots = [Slot(number, listeners) for number, listeners in enumerate(slots, 1)]
        self._configuration = raw(configuration)
        self._log_level = log_level
        self._drain_delay = drain_delay
        self._drain_timeout = drain_timeout
        self._hung_after = hung_after
        self._supervisor = Supervisor()
        self._alive: set[Worker] = set()
        self._whole = False
        self._ending = False
        self._ever_served = False
        self._failed = ""
        self._restarting = False
        self._gathering: dict[int, Gathering] = {}
        self._numbers = count(1)
        self._departed: tuple[Family, ...] = ()
        self._reloads: tuple[bool, float] | None = None
        self._ends: dict[str, int] = {"crash": 0, "hung": 0, "restart": 0}

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the workers know."""
        return max((worker.models for worker in self._alive), key=len, default=())

    async def run(self) -> None:
        """Has the workers serve until this process is told to end. Raises WorkersError where none can be started."""
        self.stopping.listen()
        self._supervisor.start("pulse", self._watch_pulse())
        try:
            for slot in self._slots:
                slot.current = await self._started(slot, accepting=True)
            await self.stopping.wait(Urgency.NONE)
            await self._end()
        finally:
            self._ending = True
            for worker in self._alive:
                _kill(worker)
            await asyncio.gather(*(worker.process.wait() for worker in self._alive))
            await self._supervisor.aclose()
            for slot in self._slots:
                listen.close(slot.listeners)
        if self._failed:
            raise WorkersError(self._failed)

    # --- one worker's life

    async def _started(self, slot: Slot, *, accepting: bool) -> Worker:
        """A new worker process for a slot, watched from now on."""
        ours, theirs = socket.socketpair()
        inherited = [theirs.fileno(), *(listener.fileno() for listener in slot.listeners)]
        process = await asyncio.create_subprocess_exec(
            *_interpreter(),
            "-m",
            "aicore_proxy.server.worker",
            str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=inherited,
            start_new_session=True,  # a terminal's Ctrl-C is for the parent
        )
        theirs.close()
        channel = await Channel.over(ours, FromWorker)
        worker = Worker(slot, process, channel)
        channel.send(Start(tuple(inherited[1:]), self._configuration, self._log_level, accepting))
        channel.send(Whole(self._whole))
        self._alive.add(worker)
        self._supervisor.start(f"worker {slot.number}", self._watch(worker))
        if accepting:
            self._supervisor.start(f"start of worker {slot.number}", self._time_start(worker))
        return worker

    async def _time_start(self, worker: Worker) -> None:
        if not await worker.until(worker.listening, START_TIME) and not worker.gone.is_set():
            log.error("Worker %d (pid %d) did not come up: killed", worker.slot.number, worker.process.pid)
            _kill(worker)

    async def _watch(self, worker: Worker) -> None:
        """Hears a worker until it is gone, and sees to its slot then."""
        async for message in worker.channel.messages():
            self._heard(worker, message)
        try:
            async with asyncio.timeout(MARGIN):
                await worker.process.wait()
        except TimeoutError:
            _kill(worker)
        code = await worker.process.wait()
        await worker.channel.aclose()
        worker.gone.set()
        self._alive.discard(worker)
        self._departed = merged((self._departed, lasting(worker.families)))
        for gathering in self._gathering.values():
            gathering.came(worker)
        if worker.slot.current is worker:
            worker.slot.current = None
            self._tell_whole()
            if not self._ending:
                await self._revive(worker, code)

    async def _revive(self, dead: Worker, code: int) -> None:
        """Fills the slot of a worker that ended by itself."""
        slot = dead.slot
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        log.error("Worker %d (pid %d) %s", slot.number, dead.process.pid, how)
        self._ends["hung" if dead.hung else "crash"] += 1
        soon = asyncio.get_running_loop().time() - dead.started < SOON
        slot.failures = slot.failures + 1 if soon and not dead.ready.is_set() else 0
        if slot.failures >= TRIES and not self._ever_served:
            self._give_up(f"The workers do not start: number {slot.number} {how}, {slot.failures} times in a row.")
            return
        if slot.failures:
            await asyncio.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (slot.failures - 1)))
        if self._ending or slot.current is not None:
            return
        if slot.next is not None:
            self._take_over(slot.next)
        else:
            slot.current = await self._started(slot, accepting=True)

    def _give_up(self, why: str) -> None:
        self._failed = why
        self.stopping.ask(Urgency.NOW)

    # --- what workers tell

    async def _watch_pulse(self) -> None:
        """Kills workers whose event loop has stood still for too long. Counted in beats, so that a pause of the whole
        machine, or of this process, kills nobody."""
        while True:
            for worker in tuple(self._alive):
                worker.silent += 1
                if worker.silent > BEATS and worker.listening.is_set() and not worker.hung:
                    worker.hung = True
                    words = "Worker %d (pid %d) has not answered for %g s: killed"
                    log.error(words, worker.slot.number, worker.process.pid, self._hung_after)
                    _kill(worker)
            self._send_all(Expose(0))
            await asyncio.sleep(self._hung_after / BEATS)

    def _heard(self, worker: Worker, message: FromWorker) -> None:
        worker.silent = 0
        match message:
            case Listening():
                self._ever_served = True
                worker.listening.set()
                self._tell_whole()
            case Readiness(ready, models):
                worker.models = models
                (worker.ready.set if ready else worker.ready.clear)()
                self._tell_whole()
            case Leaving():
                if not self._ending and worker.slot.current is worker:
                    self._supervisor.start("replacement", self._replace_asked(worker))
            case Exposed(number, families):
                worker.families = families
                self._came(worker, number)
            case Configured(number, problem):
                if problem:
                    log.error("Worker %d (pid %d): %s", worker.slot.number, worker.process.pid, problem)
                self._came(worker, number)
            case Gather(number):
                self._supervisor.start("metrics", self._gather(worker, number))
            case Hint():
                self._send_all(message, but=worker)

    def _send_all(self, message: Message, but: Worker | None = None) -> None:
        for worker in self._alive:
            if worker is not but:
                worker.channel.send(message)

    def _tell_whole(self) -> None:
        """Tells the workers whether all are ready, where that has changed."""
        whole = not self._ending and all(
            slot.current is not None and slot.current.listening.is_set() and slot.current.ready.is_set()
            for slot in self._slots
        )
        if whole:
            self.first_ready.set()
        if whole != self._whole:
            self._whole = whole
            self._send_all(Whole(whole))

    async def _asked(self, message: Message, number: int, seconds: float) -> int:
        """Asks all workers and waits for their answers, at most so long; returns how many are still to come."""
        gathering = self._gathering[number] = Gathering(set(self._alive))
        self._send_all(message)
        try:
            async with asyncio.timeout(seconds):
                await gathering.complete.wait()
        except TimeoutError:
            return len(gathering.waiting)
        finally:
            del self._gathering[number]
        return 0

    def _came(self, worker: Worker, number: int) -> None:
        if number in self._gathering:
            self._gathering[number].came(worker)

    # --- metrics

    async def _gather(self, asking: Worker, number: int) -> None:
        """Asks every worker for its metrics and tells ``asking`` those of all; of one that does not answer in time,
        what it told last."""
        own = next(self._numbers)
        if silent := await self._asked(Expose(own), own, EXPOSE_TIME):
            log.warning("%d workers did not tell their metrics in time", silent)
        told = tuple(worker.families for worker in self._alive)
        asking.channel.send(Gathered(number, (self._departed, *told, self._families())))

    def _families(self) -> tuple[Family, ...]:
        """The parent's own metrics."""
        ready = sum(worker.ready.is_set() and worker.listening.is_set() for worker in self._alive)
        name, ends = "aicore_proxy_workers", "aicore_proxy_worker_ends"
        states = (("ready", ready), ("other", len(self._alive) - ready))
        samples = tuple((name, (("state", state),), float(number)) for state, number in states)
        ended = tuple((f"{ends}_total", (("reason", reason),), float(n)) for reason, n in self._ends.items())
        return (
            Family(name, "gauge", "Worker processes", samples),
            Family(ends, "counter", "Worker processes that ended: crashed or killed, hung, restarted", ended),
            *self._reload_families(),
        )

    def _reload_families(self) -> Iterator[Family]:
        """How the last reload went. Workers tell the same of themselves, but hear only of configurations that are
        good."""
        if self._reloads is not None:
            for ending, value in zip(("success", "timestamp_seconds"), self._reloads, strict=True):
                name = f"aicore_proxy_config_last_reload_{ending}"
                yield Family(name, "gauge", "", ((name, (), float(value)),))

    def reloaded(self, taken: bool) -> None:
        """The configuration was read again: whether it is good."""
        before = self._reloads[1] if self._reloads is not None else 0.0
        self._reloads = taken, time.time() if taken else before

    # --- reloading, replacing and ending

    async def configure(self, configuration: object) -> None:
        """Has all workers, also those to come, take another configuration. What a worker makes of it is logged."""
        self._configuration = raw(configuration)
        own = next(self._numbers)
        if silent := await self._asked(Configure(own, self._configuration), own, RELOAD_TIME):
            log.error("%d workers did not take the new configuration in time", silent)

    def restart(self) -> None:
        """Replaces all workers, one by one, without losing a request. Does not wait."""
        if self._restarting or self._ending:
            log.warning("The workers are being restarted or ended already")
            return
        self._restarting = True
        self._supervisor.start("restart", self._restart())

    async def _restart(self) -> None:
        try:
            for slot in self._slots:
                if not await self._replace(slot):
                    if not self._ending:
                        log.error("The restart ends here: worker %d stays as it is", slot.number)
                    return
            log.info("All %d workers are replaced", len(self._slots))
        finally:
            self._restarting = False

    async def _replace_asked(self, worker: Worker) -> None:
        log.info("Worker %d (pid %d) was told to end: it is replaced", worker.slot.number, worker.process.pid)
        await self._replace(worker.slot)

    async def _replace(self, slot: Slot) -> bool:
        """A new worker takes the slot over once it is ready; the old one ends when its answers are written. Whether it
        could be done."""
        if slot.next is not None or self._told_to_end():
            return False
        new = slot.next = await self._started(slot, accepting=False)
        try:
            if not await new.until(new.ready, START_TIME):
                if not self._told_to_end():
                    log.error("The new worker %d (pid %d) did not become ready", slot.number, new.process.pid)
                _kill(new)
                return False
            if self._told_to_end():
                return False
            old = slot.current
            if old is not new:
                self._take_over(new)
            if not await new.until(new.listening, START_TIME):
                return False
            if old is not None and old is not new:
                log.info("Worker %d: pid %d follows pid %d", slot.number, new.process.pid, old.process.pid)
                self._ends["restart"] += 1
                old.channel.send(Drain(SILENCE, self._drain_timeout))
                self._supervisor.start(f"end of worker {slot.number}", self._time_end(old, self._drain_timeout))
        finally:
            slot.next = None
        return True

    def _told_to_end(self) -> bool:
        # A call, since the type checker believes that an attribute stays as it is while others run
        return self._ending

    def _take_over(self, new: Worker) -> None:
        """``new`` is the slot's worker from now on."""
        new.slot.current = new
        new.channel.send(Accept())
        self._supervisor.start(f"start of worker {new.slot.number}", self._time_start(new))

    async def _time_end(self, worker: Worker, seconds: float) -> None:
        if not await worker.until(worker.gone, seconds + MARGIN) and not worker.gone.is_set():
            log.error("Worker %d (pid %d) did not end in time: killed", worker.slot.number, worker.process.pid)
            _kill(worker)

    async def _end(self) -> None:
        """Not ready first; then no new connections; then the answers in flight, as long as they may take."""
        self._ending = True
        self._tell_whole()
        self._send_all(Whole(False))
        if self.stopping.urgency is Urgency.GENTLY:
            self._send_all(Retire(self._drain_delay))
            await self.stopping.wait(Urgency.GENTLY, self._drain_delay)
        self._send_all(Drain(0, self._drain_timeout))
        for slot in self._slots:
            listen.close(slot.listeners)
        ended = self._supervisor.start("end", self._all_gone())
        hurried = self._supervisor.start("second signal", self._hurry())
        await asyncio.wait((ended,), timeout=self._drain_timeout + MARGIN)
        hurried.cancel()

    async def _hurry(self) -> None:
        await self.stopping.wait(Urgency.NOW)
        self._send_all(Drain(0, 0))

    async def _all_gone(self) -> None:
        for worker in tuple(self._alive):
            await worker.gone.wait()


def _kill(worker: Worker) -> None:
    if worker.process.returncode is None:
        worker.process.kill()


def _interpreter() -> list[str]:
    """How this interpreter is started, with the folder of the start in its path only where it is in ours."""
    here = {"", str(os.getcwd())}  # noqa: PTH109 - as sys.path has it
    return [sys.executable] if here & set(sys.path) else [sys.executable, "-P"]
