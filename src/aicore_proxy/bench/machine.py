"""What the kernel says of processes, and which processor they may use. Linux's /proc."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

PROC = Path("/proc")


class Memory(Struct, frozen=True):
    """Bytes of a process and its children: resident now, and the most there ever were."""

    resident: int
    peak: int


def family(pid: int) -> list[int]:
    """A process and all that came of it."""
    parents: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for known in found:
        found += parents.get(known, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes, with threads that have ended, in nanoseconds' resolution."""
    total = 0.0
    for pid in pids:
        with suppress(OSError):  # it has ended
            total += time.clock_gettime(~pid << 3 | 2)  # the clock that clock_getcpuclockid(3) gives
    return total


def memory(pids: list[int]) -> Memory:
    sizes = {"VmRSS": 0, "VmHWM": 0}
    for pid in pids:
        try:
            lines = (PROC / str(pid) / "status").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] += int(rest.split()[0]) * 1024
    return Memory(sizes["VmRSS"], sizes["VmHWM"])


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Processes started within run on ``core`` alone; None: wherever they like."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores() -> tuple[int | None, int | None]:
    """One for what is measured, one for the rest; none where there are not two."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def descriptors() -> int:
    """How many files a process may have open, once it asks for all it may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def described() -> str:
    """The machine, in one line."""
    model = "unknown processor"
    try:
        for line in (PROC / "cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {pages:.0f} GiB; {system}; CPython {platform.python_version()}"
    )


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]
