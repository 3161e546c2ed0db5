"""Certificates, CA bundles and HTTP proxies of the environment."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
import traceback
from pathlib import Path

import pytest
from tests.stack.conftest import Authority
from tests.stack.peers import Answer, Peer, Talk, listening, scripted, whole

from aicore_proxy.upstream import Phase, PooledUpstream, Proxies, Timeouts, UpstreamError, UpstreamRequest, tls_context

pytestmark = pytest.mark.timed


async def get(upstream: PooledUpstream, url: str) -> bytes:
    response = await upstream.send(UpstreamRequest("GET", url, timeouts=Timeouts(2.0, 2.0, 2.0)))
    return await response.read(1000)


# Certificates


@pytest.mark.parametrize(
    "variable", ["AICORE_PROXY_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
)
async def test_a_ca_bundle_of_the_environment_is_trusted(authority: Authority, variable: str) -> None:
    upstream = PooledUpstream(tls=tls_context({variable: str(authority.file)}))
    async with listening(scripted(whole(b"x")), authority.server("127.0.0.1")) as peer:
        assert await get(upstream, peer.url()) == b"x"
    await upstream.close()


async def test_what_the_environment_adds_takes_nothing_away(authority: Authority) -> None:
    system, more = tls_context({}), authority.client()
    assert len(more.get_ca_certs()) == len(system.get_ca_certs()) + 1
    assert more.verify_mode is ssl.CERT_REQUIRED
    assert more.check_hostname


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_bundle_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"CURL_CA_BUNDLE.*bundle\.pem"):
        tls_context({"CURL_CA_BUNDLE": str(path)})


@pytest.mark.parametrize(
    ("wrong", "says"), [("authority", "self-signed|unable to get"), ("name", "not valid for"), ("date", "expired")]
)
async def test_n04_a_wrong_certificate_is_refused_and_said_so(authority: Authority, wrong: str, says: str) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    server = (
        authority.server("127.0.0.1", not_after=past)
        if wrong == "date"
        else authority.server("other.test" if wrong == "name" else "127.0.0.1")
    )
    upstream = PooledUpstream(tls=tls_context({}) if wrong == "authority" else authority.client())
    async with listening(scripted(whole(b"x")), server) as peer:
        with pytest.raises(UpstreamError, match=says) as caught:
            await get(upstream, peer.url())
        assert caught.value.phase is Phase.TLS
        assert peer.requests == 0
    await upstream.close()


async def test_a_client_certificate_is_shown(authority: Authority, tmp_path: Path) -> None:
    server = authority.server("127.0.0.1")
    server.load_verify_locations(authority.file)
    server.verify_mode = ssl.CERT_REQUIRED
    chain, key = authority.client_files(tmp_path)
    shown = PooledUpstream(tls=tls_context({"SSL_CERT_FILE": str(authority.file)}, (chain, key)))
    missing = PooledUpstream(tls=authority.client())
    async with listening(scripted(whole(b"x")), server) as peer:
        assert await get(shown, peer.url()) == b"x"
        with pytest.raises(UpstreamError):
            await get(missing, peer.url())
    await shown.close()
    await missing.close()


# Proxies


class ProxyLog:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.credentials: list[str] = []

    def answer(self, target: Peer, status: str | None = None) -> Answer:
        """A forward proxy that knows one target, whatever it is called."""

        async def forward(talk: Talk, peer: Peer) -> None:
            head = await talk.head()
            line, *fields = head.split("\r\n")
            self.lines.append(line)
            self.credentials += [f[21:] for f in fields if f.lower().startswith("proxy-authorization: ")]
            if status is not None:
                await talk.send(whole(b"", status))
                return
            reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
            if line.startswith("CONNECT "):
                await talk.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                method, url, version = line.split(" ")
                path = "/" + url.split("/", 3)[3]
                writer.write("\r\n".join([f"{method} {path} {version}", *fields]).encode())
            await asyncio.gather(pump(talk.reader, writer), pump(reader, talk.writer))

        return forward


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("credentials", ["", "user:s3cr%24t@"])
async def test_the_proxy_of_the_environment_is_used(authority: Authority, tls: bool, credentials: str) -> None:
    log = ProxyLog()
    async with (
        listening(scripted(whole(b"x"), then="keep"), authority.server("upstream.test") if tls else None) as target,
        listening(log.answer(target)) as proxy,
    ):
        variable = "HTTPS_PROXY" if tls else "http_proxy"
        environ = {variable: f"http://{credentials}127.0.0.1:{proxy.port}", "NO_PROXY": "other.test"}
        upstream = PooledUpstream(tls=authority.client(), proxies=Proxies.from_environ(environ))
        for _ in range(2):
            assert await get(upstream, target.url("/a?b", "upstream.test")) == b"x"
        place = f"upstream.test:{target.port}"
        expected = f"CONNECT {place} HTTP/1.1" if tls else f"GET http://{place}/a?b HTTP/1.1"
        assert log.lines == [expected], "one connection, used twice"
        said = [f"Basic {base64.b64encode(b'user:s3cr$t').decode()}"] if credentials else []
        assert log.credentials == said
        await upstream.close()


@pytest.mark.parametrize("bypass", ["127.0.0.1", "*", "a.test, 127.0.0.1:PORT", ".0.0.1"])
async def test_no_proxy_goes_past_the_proxy(bypass: str) -> None:
    async with listening(scripted(whole(b"x"))) as target:
        environ = {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": bypass.replace("PORT", str(target.port))}
        upstream = PooledUpstream(proxies=Proxies.from_environ(environ))
        assert await get(upstream, target.url()) == b"x"
        await upstream.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("fault", ["refuses", "407", "gone"])
async def test_n05_a_proxy_that_fails_is_named_without_its_password(
    authority: Authority, fault: str, tls: bool
) -> None:
    log = ProxyLog()
    async with listening(scripted(whole(b"x"))) as target, listening(log.answer(target, "407 Proxy No")) as proxy:
        port = 1 if fault == "refuses" else proxy.port
        if fault == "407" and not tls:
            return  # a plain proxy's 407 is an answer like any other
        async with listening(scripted()) as dead:
            address = f"http://user:s3cret@127.0.0.1:{dead.port if fault == 'gone' else port}"
            environ = {"https_proxy" if tls else "http_proxy": address}
            upstream = PooledUpstream(tls=authority.client(), proxies=Proxies.from_environ(environ))
            with pytest.raises(UpstreamError) as caught:
                await get(upstream, target.url("/", "upstream.test").replace("http:", "https:" if tls else "http:"))
            shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
            assert "s3cret" not in shown
            assert fault == "gone" or caught.value.phase is Phase.PROXY
            await upstream.close()


@pytest.mark.parametrize("proxy", ["socks5://user:s3cret@127.0.0.1:1080", "http://"])
def test_a_proxy_of_another_kind_is_refused(proxy: str) -> None:
    with pytest.raises(ValueError, match="not an HTTP proxy") as caught:
        Proxies.from_environ({"ALL_PROXY": proxy})
    assert "s3cret" not in str(caught.value)


def test_variables_of_proxies() -> None:
    environ = {"http_proxy": "proxy:3128", "HTTP_PROXY": "http://other:1", "ALL_PROXY": "http://all:2"}
    assert Proxies.from_environ(environ) == Proxies("http://proxy:3128", "http://all:2", "")
