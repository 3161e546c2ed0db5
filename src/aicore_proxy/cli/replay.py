"""``aicore-proxy replay``: sends a recorded request again, byte for byte, and says how the answers differ."""

from __future__ import annotations

import base64
import datetime
import http.client
import os
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec
from msgspec import Struct

from aicore_proxy.cli.connection import Connection, connection_of, connection_options
from aicore_proxy.cli.loading import loaded_settings
from aicore_proxy.config.settings import state_folder
from aicore_proxy.telemetry.recording import ENDING, folder_of
from aicore_proxy.telemetry.tape import HIDDEN, Body, Recorded

OURS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "content-encoding", "accept-encoding", "expect"}
)
"""Fields that belong to the connection, or to a body as it came over it: it is sent inflated."""
TIMEOUT = 600.0


class Replayed(Struct, frozen=True):
    """An answer to a request that was sent again."""

    status: int
    body: bytes
    seconds: float


@click.command()
@click.argument("recording")
@click.option("--show", is_flag=True, help="Print the answer's body.")
@connection_options
def replay(recording: str, show: bool, url: str | None, key: str | None, config: Path | None) -> None:
    """Send a recorded request again and compare the answers.

    RECORDING is a file, or the id of a request that was recorded (record_keys in the configuration). The request goes
    to the running proxy, with the key that its other commands use. Ends with 1 where the status is another one.
    """
    told = _recorded(recording, config)
    connection = connection_of(url, key, config)
    try:
        answer = send(connection, told)
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"No answer from {connection.url}: {error}") from None
    if show:
        sys.stdout.buffer.write(answer.body)
        sys.stdout.buffer.flush()
    for line in compared(told, answer):
        click.echo(line, err=show)
    if answer.status != told.client_response.status:
        raise SystemExit(1)


def _recorded(recording: str, config: Path | None) -> Recorded:
    path = Path(recording)
    if not path.is_file():
        settings = loaded_settings({"config": config}).settings
        folder = folder_of(settings.record_folder, str(state_folder(os.environ)))
        found = sorted(folder.glob(f"*-{recording}{ENDING}")) if folder is not None and _plain(recording) else []
        if not found:
            raise click.ClickException(f"There is no recording {recording}, neither as a file nor in {folder}.")
        path = found[-1]
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recorded)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror or error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise click.ClickException(f"{path} is no recording.") from None


def _plain(name: str) -> bool:
    return all(c.isalnum() or c in "._-" for c in name)


def bytes_of(body: Body) -> bytes:
    """A body as it was."""
    return base64.b64decode(body.base64) if body.base64 else body.text.encode()


def send(connection: Connection, told: Recorded) -> Replayed:
    """Sends the request. Raises OSError, HTTPException; ClickException for a body that was not kept whole."""
    asked = told.client_request
    body = bytes_of(asked.body)
    if len(body) != asked.body.size:
        raise click.ClickException(f"Of the request only {len(body)} of {asked.body.size} bytes were kept.")
    parts = urlsplit(connection.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    way: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        way = http.client.HTTPSConnection(parts.hostname or "", port, timeout=TIMEOUT, context=context)
    else:
        way = http.client.HTTPConnection(parts.hostname or "", port, timeout=TIMEOUT)
    began = time.monotonic()
    try:
        path, _, query = asked.target.partition("?")
        kept = "&".join(pair for pair in query.split("&") if not pair.endswith(f"={HIDDEN}"))
        way.putrequest(asked.method, parts.path + path + (f"?{kept}" if kept else ""), skip_accept_encoding=True)
        for name, value in asked.headers:
            if name.lower() not in OURS and value != HIDDEN and name.lower() != "x-request-id":
                way.putheader(name, value)
        way.putheader("authorization", f"Bearer {connection.key.value}")
        way.putheader("content-length", str(len(body)))
        way.endheaders(body)
        response = way.getresponse()
        return Replayed(response.status, response.read(), time.monotonic() - began)
    finally:
        way.close()


def compared(told: Recorded, answer: Replayed) -> list[str]:
    """What was and what is, a line each."""
    was, now = bytes_of(told.client_response.body), answer.body
    at = datetime.datetime.fromtimestamp(told.time, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    took = f" in {told.client_response.body.pieces[-1][0]:.2f} s" if told.client_response.body.pieces else ""
    same = "The answers are the same, byte for byte." if was == now else "The answers differ."
    if answer.status != told.client_response.status:
        same = "The status is another one."
    return [
        f"{told.client_request.method} {told.client_request.target}, recorded {at} (request {told.id}, key {told.key})",
        f"then: {told.client_response.status}{took}, {told.client_response.body.size} bytes",
        f"now:  {answer.status} in {answer.seconds:.2f} s, {len(now)} bytes",
        same,
    ]
