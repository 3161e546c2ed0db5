"""The way from a command to a running proxy: its URL, a key for it, and requests with readable errors."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import click
from msgspec import Struct

from aicore_proxy.cli.here import address_of, url_of
from aicore_proxy.cli.loading import loaded_settings
from aicore_proxy.cli.options import config_option
from aicore_proxy.config.settings import Settings, is_loopback, state_folder
from aicore_proxy.server.keyfile import FILE_NAME

TIMEOUT = 600.0
"""Seconds without a byte of an answer: models think for minutes."""
LONGEST_ERROR = 65536
KEY_VARIABLE = "AICORE_PROXY_API_KEY"
OWN_VARIABLE = "AICORE_PROXY_KEY"
"""A client's key that is no setting of the proxy's, for those who have both on one machine."""


class ProxyError(Exception):
    """A request that failed: what happened, in a sentence or two. ``status`` 0: there was no answer."""

    def __init__(self, words: str, status: int = 0) -> None:
        super().__init__(words)
        self.status = status


class Key(Struct, frozen=True):
    """A key and where it is from. ``path``: the file that holds nothing else; ``variable``: of the environment."""

    value: str
    source: str
    path: Path | None = None
    variable: str = ""

    def __repr__(self) -> str:
        return f"Key({self.source})"

    @property
    def masked(self) -> str:
        """Enough to tell keys apart."""
        return f"{self.value[:8]}…{self.value[-4:]}" if len(self.value) >= 24 else "****"


class Connection(Struct, frozen=True):
    """A proxy and a key for it. ``url``: without a path's end, ``http://127.0.0.1:3001``."""

    url: str
    key: Key

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(urlsplit(self.url).hostname or "")


def connection_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--url``, ``--key`` and ``--config``."""
    for option in (
        config_option,
        click.option(
            "--key",
            metavar="KEY",
            help=f"A client key of the proxy ({OWN_VARIABLE}, {KEY_VARIABLE}, then the configuration's, then the one "
            "that the proxy made and keeps). '-' asks for it: others on this machine may see what a command line "
            "holds.",
        ),
        click.option("--url", help="The proxy's URL (that of the running configuration: http://127.0.0.1:3001)."),
    ):
        command = option(command)
    return command


def connection_of(url: str | None, key: str | None, config: Path | None) -> Connection:
    """The proxy that is meant. Raises ClickException."""
    settings = loaded_settings({"config": config}).settings
    return Connection(_url(url, settings), _key(key, settings))


def _url(given: str | None, settings: Settings) -> str:
    if given is None:
        if settings.port == 0:
            raise click.ClickException("The proxy's port is 0, any free one: say with --url which one it became.")
        return url_of(address_of(settings.host), settings.port, tls=bool(settings.tls_certificate))
    problem = click.ClickException(f"'{given}' is not a proxy's URL: it should look like http://127.0.0.1:3001.")
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise problem from None
    if not usable or parts.username or parts.password or parts.query or parts.fragment:
        raise problem
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _key(given: str | None, settings: Settings) -> Key:
    if given == "-":
        given = click.prompt("Key", hide_input=True, err=True).strip()
        return Key(_fit(given, "the key that you typed"), "the key that you typed")
    if given:
        return Key(_fit(given, "--key"), "--key")
    if named := os.environ.get(OWN_VARIABLE, "").strip():
        return Key(_fit(named, OWN_VARIABLE), OWN_VARIABLE, variable=OWN_VARIABLE)
    if settings.api_key:
        if os.environ.get(KEY_VARIABLE, "").strip() == settings.api_key:
            return Key(settings.api_key, KEY_VARIABLE, variable=KEY_VARIABLE)
        return Key(settings.api_key, "the configuration (api_key)")
    known = sorted((key for key in settings.keys if key.key), key=lambda key: bool(key.models))
    if known:
        return Key(known[0].key, f"the configuration (key '{known[0].name}')")
    if settings.keys:
        raise click.ClickException(
            f"The configuration holds its keys as hashes only: give one with --key, or in {OWN_VARIABLE}."
        )
    path = state_folder(os.environ) / FILE_NAME
    try:
        return Key(_fit(path.read_text(encoding="ascii").strip(), str(path)), str(path), path=path)
    except FileNotFoundError:
        raise click.ClickException(
            f"There is no key yet: start the proxy first (it makes one in {path}), set {KEY_VARIABLE}, or give --key."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"The key in {path} cannot be read ({error}): give --key.") from None


def _fit(key: str, source: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise click.ClickException(f"What {source} holds is not a key: a key is printable ASCII without spaces.")
    return key


class Answer(Struct, frozen=True):
    """An answer that has begun. ``headers`` in lower case."""

    status: int
    headers: Mapping[str, str]
    body: IO[bytes]

    def events(self) -> Iterator[tuple[str, str]]:
        """The server-sent events: name (empty: none) and data. Raises ProxyError where the connection breaks."""
        name, data = "", list[str]()
        try:
            for raw in self.body:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if not line and data:
                    yield name, "\n".join(data)
                if not line:
                    name, data = "", []
                elif line.startswith("event:"):
                    name = line[6:].strip()
                elif line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
        except (OSError, http.client.HTTPException) as error:
            raise ProxyError(f"The connection broke in the middle of the answer: {_reason(error)}.") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to whoever it names."""

    def redirect_request(self, *_: Any) -> None:
        return None


@contextmanager
def asked(
    connection: Connection, path: str, headers: Mapping[str, str], body: Any = None, timeout: float = TIMEOUT
) -> Iterator[Answer]:
    """The answer to one request; ``body``: sent as JSON by POST, None: GET. Raises ProxyError, also for an answer
    that is no success: its words are the proxy's own."""
    data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
    request = urllib.request.Request(connection.url + path, data, {**headers, "Content-Type": "application/json"})  # noqa: S310 - http or https: checked
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if connection.loopback:
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        response = urllib.request.build_opener(*handlers).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise ProxyError(_refusal(error), error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ProxyError(_unreachable(connection.url, error)) from error
    with response:
        yield Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, response)


def models_of(connection: Connection) -> list[str]:
    """The names that the proxy lists, in its order. Raises ProxyError."""
    with asked(connection, "/v1/models", {"Authorization": f"Bearer {connection.key.value}"}, timeout=30) as answer:
        try:
            value = json.loads(answer.body.read())
            return [str(entry["id"]) for entry in value["data"]]
        except (ValueError, TypeError, KeyError):
            raise ProxyError(f"{connection.url}/v1/models did not answer with a list of models.") from None
        except (OSError, http.client.HTTPException) as error:
            raise ProxyError(_unreachable(connection.url, error)) from error


def _refusal(error: urllib.error.HTTPError) -> str:
    """The words of an error in any of the dialects' shapes."""
    if 300 <= error.code < 400:
        target = error.headers.get("Location", "elsewhere")
        return f"The proxy's URL redirects (status {error.code}) to {target}: use that one."
    try:
        text = error.read(LONGEST_ERROR).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        text = ""
    try:
        value = json.loads(text)
        words = str(value["error"]["message"])
        request_id = str(value.get("request_id") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        words, request_id = " ".join(text.split())[:300], ""
    ending = f" [request {request_id}]" if request_id else ""
    return f"The proxy answered {error.code}: {words or error.reason}{ending}"


def _unreachable(url: str, error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        words = f"The certificate of {url} is not trusted: {reason.verify_message}."
        return f"{words} For an authority of your own set SSL_CERT_FILE; the URL must have the certificate's name."
    if isinstance(reason, ssl.SSLError):
        return f"{url} does not speak TLS as it should ({reason.reason or reason}): is it http://?"
    if isinstance(error, http.client.RemoteDisconnected | http.client.BadStatusLine | ConnectionResetError):
        return f"{url} does not answer in HTTP: is it https://?"
    return f"No answer from {url}: {_reason(error)}. Is the proxy running? Start it with: aicore-proxy serve"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        error = error.reason
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).rstrip(".")
    return f"it is not HTTP ({type(error).__name__})"
