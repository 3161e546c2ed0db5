"""Running a simulator: beside a test, in a thread of its own, or as a process that ends with its parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aicore_proxy.simulator.app import Simulator
from aicore_proxy.simulator.landscape import Landscape, demo

START = 30.0
PARENT_CHECK = 1.0


class Running:
    """A simulator that runs. Its calls block for a moment; they go over the control endpoints."""

    def __init__(self, url: str, tls: bool = False) -> None:
        self.url = url
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if tls:
            # The simulator's own certificate, on loopback, reached by its own control client.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One control request: ``call("GET", "state")``. Raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_simulator/{path}", data, method=method)  # noqa: S310 - loopback
        with self._opener.open(request, timeout=30) as answer:
            return json.load(answer)

    def service_keys(self) -> dict[str, Any]:
        return dict(self.call("GET", "service-keys"))

    def state(self) -> dict[str, Any]:
        return dict(self.call("GET", "state"))

    def requests(self) -> list[dict[str, Any]]:
        """The last thousand inference requests, oldest first."""
        return list(self.call("GET", "requests"))

    def script(self, script: dict[str, Any], *at: str, endpoint: str = "inference") -> None:
        """Sets a script at those deployments, subaccounts or models; without any, everywhere."""
        self.call("POST", "scripts", {"script": script, "endpoint": endpoint, **({"at": list(at)} if at else {})})

    def clear(self) -> None:
        """No scripts any more."""
        self.call("DELETE", "scripts")

    def switch(self, **switches: Any) -> None:
        self.call("PATCH", "switches", switches)

    def deployments(self, model: str | None = None, subaccount: str | None = None) -> list[dict[str, Any]]:
        """Entries of the state, with their subaccount."""
        return [
            {**deployment, "subaccount": name}
            for name, inner in self.state()["subaccounts"].items()
            for deployment in inner["deployments"]
            if model in (None, deployment["model"]) and subaccount in (None, name)
        ]


@contextmanager
def in_thread(
    landscape: Landscape | None = None,
    *,
    seed: int = 0,
    fast: bool = False,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    certified: ssl.SSLContext | None = None,
) -> Iterator[Running]:
    """A simulator on an event loop and thread of its own, in this process. ``certified``: TLS that asks for client
    certificates, for a token endpoint of its own (``certurl``)."""
    started = threading.Event()
    found: dict[str, Any] = {}

    async def run() -> None:
        simulator = Simulator(landscape or demo(), seed=seed, fast=fast)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            found["url"] = await simulator.start(port=port, tls=tls)
            if certified is not None:
                await simulator.start_certified("127.0.0.1", 0, certified)
            found["stop"] = lambda: loop.call_soon_threadsafe(stop.set)
        finally:
            started.set()
        await stop.wait()
        await simulator.stop()

    def serve() -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(run())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            found["error"] = error
            started.set()

    thread = threading.Thread(target=serve, name="simulator", daemon=True)
    thread.start()
    started.wait(START)
    if "url" not in found:
        thread.join(5)
        raise RuntimeError("The simulator did not start.") from found.get("error")
    try:
        yield Running(found["url"], tls is not None)
    finally:
        found["stop"]()
        thread.join(10)


@asynccontextmanager
async def running(
    landscape: Landscape | None = None,
    *,
    seed: int = 0,
    fast: bool = False,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    certified: ssl.SSLContext | None = None,
) -> AsyncIterator[Running]:
    """As ``in_thread``, for asynchronous code: the simulator never shares its event loop."""
    with in_thread(landscape, seed=seed, fast=fast, port=port, tls=tls, certified=certified) as simulator:
        yield simulator


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def tls_context(certificate: Path, key: Path | None, client_ca: Path | None = None) -> ssl.SSLContext:
    """A server's context; with ``client_ca`` one that wants a certificate of it from each client. Raises OSError,
    ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def serve(
    landscape: Landscape,
    *,
    host: str,
    port: int,
    seed: int,
    fast: bool,
    tls: ssl.SSLContext | None,
    announce: bool,
    certified: ssl.SSLContext | None = None,
    certified_port: int = 0,
) -> None:
    """Serves until SIGINT or SIGTERM; with ``announce`` prints one JSON line when ready and ends with its parent or
    when standard input closes. Raises OSError."""

    # Taken before anything is announced: whoever reads the announcement may be gone a moment later
    parent_id = os.getppid()

    async def run() -> None:
        simulator = Simulator(landscape, seed=seed, fast=fast)
        url = await simulator.start(host, port, tls)
        if certified is not None:
            await simulator.start_certified(host, certified_port, certified)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if announce:
            sys.stdout.write(json.dumps({"url": url}) + "\n")
            watch = threading.Thread(target=_until_orphaned, args=(loop, stop), daemon=True)
            watch.start()
            parent = loop.create_task(_until_adopted(parent_id, stop))
        else:
            sys.stdout.write(f"SAP AI Core simulator: {url}\nService keys: {url}/_simulator/service-keys\n")
            parent = None
        sys.stdout.flush()
        await stop.wait()
        if parent is not None:
            parent.cancel()
        await simulator.stop()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run())


def _until_orphaned(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Reads standard input until it closes."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    loop.call_soon_threadsafe(stop.set)


async def _until_adopted(parent: int, stop: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(PARENT_CHECK)
    stop.set()
