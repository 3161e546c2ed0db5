"""The proxy with a resolver of its own, to show what a name costs that has no address: ``python -m
tests.reliability.misled serve``. ``MISLED`` in the environment: name -> addresses, as JSON; of a name without any the
resolver says so only after ``SLOW`` seconds."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import uvloop

from aicore_proxy.cli import main

SLOW = 1.0
ADDRESSES: dict[str, list[str]] = json.loads(os.environ.get("MISLED", "{}"))
found = socket.getaddrinfo


def getaddrinfo(host: Any, port: Any, *args: Any, **more: Any) -> Any:
    if (addresses := ADDRESSES.get(host)) is None:
        return found(host, port, *args, **more)
    if not addresses:
        time.sleep(SLOW)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)) for address in addresses]


async def in_a_thread(loop: uvloop.Loop, host: Any, port: Any, **more: Any) -> Any:
    return await loop.run_in_executor(None, lambda: socket.getaddrinfo(host, port, **more))


if __name__ == "__main__":
    # The library's, for whoever asks it, and uvloop's, which asks the operating system by itself
    socket.getaddrinfo = getaddrinfo
    uvloop.Loop.getaddrinfo = in_a_thread  # type: ignore[method-assign,assignment]
    main()
