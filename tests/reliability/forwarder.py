"""What stands between the proxy and the simulator, in threads: an HTTP proxy that forwards or fails in one of its ways,
and a NAT that forgets."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

REQUEST_LINE = re.compile(rb"([A-Z]+ \S+) HTTP/1\.1\r\n")


class Forwarder(socketserver.ThreadingTCPServer):
    """Knows ``CONNECT``. ``fault``: "" (none), "407" or "dies" (closes instead of an answer)."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Tunnel)
        self.fault = ""
        self.credentials: set[str] = set()
        self.open: set[socket.socket] = set()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def cut(self) -> None:
        """Ends all connections."""
        for each in list(self.open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class Tunnel(socketserver.StreamRequestHandler):
    server: Forwarder

    def handle(self) -> None:
        line = self.rfile.readline().decode()
        while (field := self.rfile.readline().decode().strip()) != "":
            name, _, value = field.partition(":")
            if name.lower() == "proxy-authorization":
                self.server.credentials.add(base64.b64decode(value.split()[1]).decode())
        if self.server.fault == "407":
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        if self.server.fault:
            return
        host, _, port = line.split(" ")[1].rpartition(":")
        with socket.create_connection((host, int(port))) as target:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {target, self.connection}
            self.server.open |= ends
            back = threading.Thread(target=pump, args=(target, self.connection))
            back.start()
            pump(self.connection, target)
            back.join()
            self.server.open -= ends


class Nat(socketserver.ThreadingTCPServer):
    """Forwards to a port of this machine. ``forget``: of the connections that are open, nothing comes through any more,
    and nobody is told. ``asked``: method and target of every request."""

    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), Forwarded)
        self.target = target
        self.asked: list[str] = []
        self.remembered = threading.Event()
        self.remembered.set()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def forget(self) -> None:
        self.remembered.clear()
        self.remembered = threading.Event()
        self.remembered.set()


class Forwarded(socketserver.BaseRequestHandler):
    server: Nat

    def handle(self) -> None:
        remembered = self.server.remembered
        with socket.create_connection(("127.0.0.1", self.server.target)) as target:
            back = threading.Thread(target=pump, args=(target, self.request, remembered))
            back.start()
            pump(self.request, target, remembered, self.server.asked)
            back.join()


def pump(
    source: socket.socket,
    sink: socket.socket,
    remembered: threading.Event | None = None,
    asked: list[str] | None = None,
) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if asked is not None:
                asked += [line.decode("latin-1") for line in REQUEST_LINE.findall(data)]
            if remembered is None or remembered.is_set():
                sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def forwarding(port: int = 0) -> Iterator[Forwarder]:
    """A forwarder that listens; with the end of the block nobody does."""
    with Forwarder(port) as forwarder, serving(forwarder):
        try:
            yield forwarder
        finally:
            forwarder.cut()


@contextmanager
def natted(target: int) -> Iterator[Nat]:
    with Nat(target) as nat, serving(nat):
        yield nat
