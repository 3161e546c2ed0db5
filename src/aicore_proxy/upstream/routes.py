"""Where a URL leads, and the way there: HTTP proxies and CA bundles of the environment."""

from __future__ import annotations

import base64
import functools
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec import Struct

CA_VARIABLES = ("AICORE_PROXY_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PORTS = {"http": 80, "https": 443}


class Target(Struct, frozen=True):
    """An absolute URL, taken apart. ``place``: host and port as the Host field has them, the scheme's own port left
    out; ``path`` with the query, never empty; ``user``: ``name:password``, decoded, of a proxy's URL."""

    scheme: str
    host: str
    port: int
    place: str
    path: str
    user: str = ""

    @property
    def tls(self) -> bool:
        return self.scheme == "https"


@functools.lru_cache(maxsize=4096)
def target_of(url: str) -> Target:
    """Raises ValueError for what is no encoded, absolute HTTP URL; its message does not quote it."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("not an encoded URL")
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("not an absolute HTTP URL")
    usual = PORTS[parts.scheme]
    port = usual if parts.port is None else parts.port
    bracketed = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    user = "" if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    place = bracketed if port == usual else f"{bracketed}:{port}"
    return Target(parts.scheme, parts.hostname, port, place, path, user)


class Proxies(Struct, frozen=True):
    """HTTP proxies by scheme of the target, as URLs (with credentials, where there are), and the hosts that go
    without (``NO_PROXY``: names, suffixes, host:port, ``*``)."""

    http: str = ""
    https: str = ""
    bypass: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Proxies:
        """``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, lower case first. Raises ValueError for
        a proxy that is not spoken to over HTTP (SOCKS)."""

        def variable(name: str) -> str:
            return (environ.get(name.lower()) or environ.get(name.upper()) or "").strip()

        every = variable("all_proxy")
        found = cls(variable("http_proxy") or every, variable("https_proxy") or every, variable("no_proxy"))
        return cls(proxy_url(found.http), proxy_url(found.https), found.bypass)

    def towards(self, target: Target) -> str:
        """The proxy for this target, or nothing."""
        proxy = self.https if target.tls else self.http
        return proxy if proxy and not self._bypassed(target.host, target.port) else ""

    def _bypassed(self, host: str, port: int) -> bool:
        for entry in self.bypass.lower().split(","):
            name = entry.strip().removeprefix("*.").lstrip(".")
            if name and (name in ("*", host, f"{host}:{port}") or host.endswith(f".{name}")):
                return True
        return False


def proxy_url(proxy: str) -> str:
    """With its scheme, which is ``http`` where none is given. Raises ValueError."""
    if not proxy:
        return ""
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        target_of(url)
    except ValueError:
        raise ValueError(f"The proxy {without_credentials(url)} of the environment is not an HTTP proxy.") from None
    return url


def without_credentials(url: str) -> str:
    scheme, _, rest = url.partition("://")
    place = rest.partition("/")[0].rpartition("@")[2]
    return f"{scheme}://{place}" if place else "?"


def authorization(proxy: Target) -> str:
    """What a proxy with credentials is told: a header field with its end, or nothing."""
    if not proxy.user:
        return ""
    return f"Proxy-Authorization: Basic {base64.b64encode(proxy.user.encode()).decode()}\r\n"


def tls_context(environ: Mapping[str, str], client_certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Verifies against the system's CAs and those that the variables of ``CA_VARIABLES`` add. ``client_certificate``:
    PEM files of the chain and its key. Reads files: call it before the loop runs. Raises ValueError."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for variable in CA_VARIABLES:
        if value := environ.get(variable, "").strip():
            path = Path(value)
            try:
                context.load_verify_locations(capath=path) if path.is_dir() else context.load_verify_locations(path)
            except OSError as error:  # SSLError is one
                raise ValueError(f"The CA bundle of {variable}, {value}, cannot be read: {error}") from error
    if client_certificate is not None:
        context.load_cert_chain(*client_certificate)
    return context
