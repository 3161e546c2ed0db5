"""Listening: addresses, ports, descriptors."""

from __future__ import annotations

import resource
import socket

import pytest

from aicore_proxy.server import listen


def test_a_port_is_bound_once_on_every_address_of_the_host() -> None:
    listeners = listen.bind("localhost", 0)
    ports = {listener.getsockname()[1] for listener in listeners}
    assert len(ports) == 1
    with pytest.raises(OSError, match="in use"):
        listen.bind("127.0.0.1", ports.pop())
    for listener in listeners:
        listener.close()


def test_an_address_of_somebody_else_is_refused() -> None:
    with pytest.raises(OSError, match="can be listened on"):
        listen.bind("192.0.2.1", 0)


def test_the_handles_of_a_listener_share_its_port() -> None:
    with listen.bind("127.0.0.1", 0)[0] as listener:
        handles = listen.spread([listener], 4)
        assert len({handle.fileno() for handle in handles}) == 4
        assert {handle.getsockname() for handle in handles} == {listener.getsockname()}
        for handle in handles[1:]:
            handle.close()
        with socket.create_connection(listener.getsockname()):
            assert listener.accept()[0].fileno() > 0


def test_the_descriptor_limit_is_raised_and_never_lowered() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert listen.raise_descriptor_limit(300) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        assert listen.raise_descriptor_limit(200) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
