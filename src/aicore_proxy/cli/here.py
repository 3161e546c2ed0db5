"""The proxy on this machine, asked over HTTP by the address that it is set to listen on."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

READY = "/health/ready"
LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not what we open


def address_of(host: str) -> str:
    """Where a proxy that listens on ``host`` is asked; one that listens on all addresses: on the loopback one."""
    return LOOPBACK.get(host, host)


def url_of(address: str, port: int, *, tls: bool) -> str:
    """The URL of what listens at an address, without a path."""
    return f"{'https' if tls else 'http'}://{f'[{address}]' if ':' in address else address}:{port}"


@contextmanager
def readiness(address: str, port: int, *, tls: bool, timeout: float) -> Iterator[http.client.HTTPResponse]:
    """The answer to a health check. Sends no key, and asks never through the environment's HTTP proxies.

    Raises OSError and HTTPException.
    """
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False  # it is issued for the public name, and we ask the loopback address
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(address, port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", READY, headers={"Connection": "close"})
        yield connection.getresponse()
    finally:
        connection.close()
