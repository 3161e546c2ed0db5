"""Certificates, the event loops that the upstream client is tested on, and the relay process."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import trustme
import uvloop

from aicore_proxy.upstream import PooledUpstream, tls_context


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Authority:
    """A certificate authority of the test's own, and a peer's side of TLS for the names that it certified."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, *names: str, **more: object) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names, **more).configure_cert(context)  # type: ignore[arg-type]
        return context

    def client_files(self, folder: Path) -> tuple[Path, Path]:
        """A client certificate: the files of its chain and key."""
        issued = self._ca.issue_cert("client@example.test")
        chain, key = folder / "client.pem", folder / "client.key"
        issued.cert_chain_pems[0].write_to_path(chain)
        issued.private_key_pem.write_to_path(key)
        return chain, key

    def client(self) -> ssl.SSLContext:
        return tls_context({"SSL_CERT_FILE": str(self.file)})


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def upstream(authority: Authority) -> AsyncIterator[PooledUpstream]:
    client = PooledUpstream(tls=authority.client())
    yield client
    await client.close()


class RelayProcess:
    """The relay: its port, and its process for figures."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process


@pytest.fixture(scope="session")
def relay(authority: Authority) -> Iterator[RelayProcess]:
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, str(Path(__file__).parent / "relay.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**environ, "SSL_CERT_FILE": str(authority.file)})
    try:
        assert process.stdout is not None
        yield RelayProcess(int(process.stdout.readline()), process)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
