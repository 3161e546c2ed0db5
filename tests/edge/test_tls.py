"""TLS at the listener: what holds without it holds with it, and certificates change while it serves."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.edge.raw import Raw, Server, serving

from aicore_proxy.server.tls import Certificate, CertificateError


class Files:
    """A certificate's files, the authority behind it, and how to replace it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.chain, self.key = folder / "tls.pem", folder / "tls.key"
        self.renew()

    def renew(self) -> bytes:
        """The new certificate's SHA-256."""
        issued = self.ca.issue_cert("127.0.0.1", "localhost")
        self.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())).digest()

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def serving(self, **settings: object) -> object:
        return serving(client=self.client(), tls=[str(self.chain), str(self.key)], **settings)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    files = Files(tmp_path_factory.mktemp("tls"))
    limits = {"head_time": 1.0, "idle": 1.5, "linger": 0.5, "stuck": 1.5}
    with files.serving(limits=limits) as server:  # type: ignore[attr-defined]
        yield server


def shown(client: Raw) -> bytes:
    assert isinstance(client.socket, ssl.SSLSocket)
    return hashlib.sha256(client.socket.getpeercert(binary_form=True) or b"").digest()


def test_requests_streams_and_large_bodies(secured: Server) -> None:
    with secured.connect() as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == "http/1.1"
        assert client.get("/x", b"y" * 3_000_000).json["length"] == 3_000_000
        assert len(client.get("/large/3000000").body) == 3_000_000
        assert client.get("/stream/a/0.1/b").body == b"data: a\n\ndata: b\n\n"
        client.send(b"GET / HTTP/1.1\r\nBad\r\n\r\n")
        assert client.head().status == 400


def test_old_versions_are_refused(secured: Server) -> None:
    assert secured.tls is not None
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        Raw(secured.port, tls=old)


@pytest.mark.timed
@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0" * 64])
def test_i09_whoever_does_not_speak_tls_is_cut_off(secured: Server, greeting: bytes) -> None:
    with Raw(secured.port) as client:
        client.send(greeting)
        assert b"HTTP/1.1" not in client.rest(within=5)
    assert secured.state()["open"] == 0


@pytest.mark.timed
def test_silence_after_the_handshake_ends(secured: Server) -> None:
    began = time.monotonic()
    with secured.connect() as client:
        assert client.rest(within=5) == b""
        assert 1.0 < time.monotonic() - began < 4
    with secured.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHo")
        assert b" 408 " in client.rest(within=5)


@pytest.mark.timed
@pytest.mark.parametrize("how", ["close_notify", "FIN", "RST"])
@pytest.mark.parametrize("path", ["/sleep/60", "/stream/a/60/b", "/push/1000"])
def test_a_client_that_leaves_frees_everything(secured: Server, path: str, how: str) -> None:
    before = secured.state()["begun"]
    clients = [secured.connect() for _ in range(5)]
    for client in clients:
        client.ask(path)
    secured.wait(begun=before + 5)
    time.sleep(0.05)
    for client in clients:
        assert isinstance(client.socket, ssl.SSLSocket)
        if how == "close_notify":
            client.socket.settimeout(0.01)
            with contextlib.suppress(OSError):
                client.socket.unwrap()
        if how == "RST":
            client.reset()
        client.socket.close()
    assert secured.wait(open=0) < 1.0
    assert secured.state()["closed"][-5:] == ["client_gone"] * 5


@pytest.mark.timed
def test_a_client_that_reads_nothing_holds_little_and_is_cut_off(secured: Server) -> None:
    before = secured.process.memory_info().rss
    with Raw(secured.port, tls=secured.tls, receive_buffer=4096) as client:
        client.ask("/push/16384")
        time.sleep(1.0)
        first = secured.state()["pushed"]
        time.sleep(0.3)
        assert secured.state()["pushed"] == first < 8_000_000
        assert secured.process.memory_info().rss - before < 16_000_000
        assert secured.wait(open=0, within=10) < 6


@pytest.mark.timed
def test_new_connections_get_a_new_certificate_and_old_ones_go_on(files: Files) -> None:
    with files.serving() as server, server.connect() as old:  # type: ignore[attr-defined]
        first = shown(old)
        old.ask("/stream/a/3/b")
        assert old.head().status == 200
        second = files.renew()
        assert second != first
        deadline = time.monotonic() + 5
        while True:
            with server.connect() as new:
                if shown(new) == second:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # A broken pair changes nothing
        files.key.write_text("no key")
        time.sleep(0.5)
        with server.connect() as new:
            assert shown(new) == second
            assert new.get("/x").status == 200
        assert [old.chunk(), old.chunk(), old.chunk()] == [b"data: a\n\n", b"data: b\n\n", b""]
        assert old.get("/x").status == 200


def test_a_stop_waits_for_no_silent_connection(files: Files) -> None:
    with files.serving() as server:  # type: ignore[attr-defined]
        silent = socket.create_connection(("127.0.0.1", server.port))
        kept = server.connect()
        time.sleep(0.2)
        began = time.monotonic()
        server.process.terminate()
        server.process.wait(timeout=15)
        assert time.monotonic() - began < 10
        silent.close()
        kept.socket.close()


def test_what_cannot_be_used_is_named(files: Files, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"nowhere\.pem cannot be read"):
        Certificate(tmp_path / "nowhere.pem", files.key)
    other = Files(tmp_path_of(tmp_path))
    with pytest.raises(CertificateError, match=r"tls\.pem and .*tls\.key are no certificate"):
        Certificate(files.chain, other.key)
    with pytest.raises(CertificateError, match="key is no certificate"):
        Certificate(files.key)
    both = tmp_path / "both.pem"
    both.write_bytes(files.key.read_bytes() + files.chain.read_bytes())
    certificate = Certificate(both)
    assert not certificate.reload()
    both.write_text("broken")
    with pytest.raises(CertificateError):
        certificate.reload()


def test_an_encrypted_key_is_refused_at_once(files: Files) -> None:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(files.key.read_bytes(), None)
    secret = form.BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, secret))
    with pytest.raises(CertificateError, match="encrypted"):
        Certificate(files.chain, files.key)


def tmp_path_of(folder: Path) -> Path:
    other = folder / "other"
    other.mkdir()
    return other
