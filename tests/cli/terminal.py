"""A command in a pseudo-terminal, as a person has it: typed at, waited for, looked at."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COMMAND = [sys.executable, "-m", "aicore_proxy"]
OWN_TERMINAL = (
    "import fcntl, os, signal, sys, termios; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Else Ctrl-C would be a character like any other, or be ignored where a shell runs the tests in the background."""


class Terminal:
    """A process with a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.raw = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may come in pieces
        self._master = master

    @property
    def text(self) -> str:
        """Everything that appeared, without colours."""
        return COLOURS.sub("", self.raw).replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, wanted: str, seconds: float = 20.0) -> str:
        """Waits until ``wanted`` appeared after what was waited for before. Returns what came up to it."""
        start = getattr(self, "_seen", 0)
        deadline = time.monotonic() + seconds
        while wanted not in self.text[start:]:
            assert time.monotonic() < deadline, f"{wanted!r} did not appear in:\n{self.text}"
            if not self._read(0.1) and self.process.poll() is not None and wanted not in self.text[start:]:
                raise AssertionError(f"It ended before {wanted!r} appeared:\n{self.text}")
        end = self.text.index(wanted, start) + len(wanted)
        self._seen = end
        return self.text[start:end]

    def ended(self, seconds: float = 20.0) -> int:
        """Waits for its end. Returns the exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end:\n{self.text}"
            self._read(0.05)
        while self._read(0.05):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # Linux's way to say that nobody is left at the other side
            return False
        self.raw += self._decoder.decode(piece)
        return bool(piece)


@contextmanager
def terminal(command: Sequence[str], environ: Mapping[str, str], cwd: object = None) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x32\x00\xc8\x00\x00\x00\x00\x00")  # 50 lines of 200 columns

    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *command], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={**environ, "TERM": "xterm-256color"}, cwd=str(cwd) if cwd else None,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)
