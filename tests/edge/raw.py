"""A client made of a socket, so that a test says every byte; and the server that it talks to."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


class Answer:
    """A response: ``fields`` with names in lower case, ``body`` unframed."""

    def __init__(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def field(self, name: str) -> str | None:
        return next((value for field, value in self.fields if field == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Raw:
    """One connection."""

    def __init__(
        self, port: int, timeout: float = 20.0, tls: ssl.SSLContext | None = None, receive_buffer: int = 0
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self.buffer = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, path: str = "/", body: bytes = b"", method: str = "POST", fields: str = "") -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
        self.send(head.encode() + body)

    def get(self, path: str, body: bytes = b"", **more: Any) -> Answer:
        self.ask(path, body, **more)
        return self.answer()

    def more(self) -> bool:
        """Reads what has come; False at the end (a reset is one too)."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self.buffer += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with ``mark``."""
        while mark not in self.buffer:
            assert self.more(), f"closed before {mark!r}: {self.buffer!r}"
        at = self.buffer.index(mark) + len(mark)
        taken, self.buffer = self.buffer[:at], self.buffer[at:]
        return taken

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            assert self.more(), "closed in mid-body"
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def head(self) -> Answer:
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ")
        assert version == "HTTP/1.1"
        fields = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:] if line)
        ]
        return Answer(int(status), fields, b"")

    def chunk(self) -> bytes:
        """One chunk's data; empty: the last."""
        size = int(self.until(b"\r\n"), 16)
        return self.exactly(size + 2)[:-2]

    def answer(self, *, bodiless: bool = False) -> Answer:
        answer = self.head()
        if answer.field("transfer-encoding") == "chunked":
            while piece := self.chunk():
                answer.body += piece
        elif not bodiless and (length := answer.field("content-length")) is not None:
            answer.body = self.exactly(int(length))
        return answer

    def rest(self, within: float = 20.0) -> bytes:
        """Everything until the server closes. Fails if it does not within so many seconds."""
        end = time.monotonic() + within
        while True:
            self.socket.settimeout(max(0.001, end - time.monotonic()))
            if not self.more():
                return self.buffer

    def reset(self) -> None:
        """Closes with an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()


class Server:
    """The echo gateway in a process of its own."""

    def __init__(self, port: int, process: psutil.Process, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.process = process
        self.tls = tls

    def connect(self, timeout: float = 20.0) -> Raw:
        return Raw(self.port, timeout, self.tls)

    def state(self) -> dict[str, Any]:
        with self.connect() as client:
            state: dict[str, Any] = client.get("/state", method="GET").json
            return state

    def wait(self, within: float = 20.0, **wanted: object) -> float:
        """Seconds until the state is as ``wanted``."""
        began = time.monotonic()
        while True:
            state = self.state()
            if all(state[name] == value for name, value in wanted.items()):
                return time.monotonic() - began
            assert time.monotonic() - began < within, f"wanted {wanted}, is {state}"
            time.sleep(0.01)


@contextlib.contextmanager
def serving(*, client: ssl.SSLContext | None = None, **settings: Any) -> Iterator[Server]:
    """A server with these settings (``limits``, ``timings``, ``body_limit``, ``proxies``, ``tls``), stopped at the end.

    ``client``: the client's side of TLS, where the server has a certificate."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        command = [sys.executable, "-m", "tests.edge.echo", str(port_file), json.dumps(settings)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 30
            while not port_file.exists():
                assert process.poll() is None, "the server did not start"
                assert time.monotonic() < deadline
                time.sleep(0.02)
            server = Server(int(port_file.read_text().split()[0]), psutil.Process(process.pid), client)
            server.state()
            yield server
        finally:
            process.terminate()
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise
