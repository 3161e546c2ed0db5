"""``aicore-proxy health``: whether the proxy on this machine is ready, as an exit code for health checks."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path

import click

from aicore_proxy.cli.loading import config_option, loaded_settings

PATH = "/health/ready"
LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not what we open
"""Where a proxy that listens on all addresses is asked."""


@click.command()
@config_option
@click.option("--host", help="Address to ask (the one that the proxy is set to listen on).")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to ask (PORT, then AICORE_PROXY_PORT, then 3001).")
@click.option("--tls", is_flag=True, help="The proxy itself speaks TLS; its certificate is not checked.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="Seconds to wait."
)
def health(config: Path | None, host: str | None, port: int | None, tls: bool, timeout: float) -> None:
    """Ask whether the proxy is ready: exit code 0 if it is, 1 if not.

    Ready means that it knows at least one deployment. Reads the same settings as the proxy; sends no key.
    """
    settings = loaded_settings({"host": host, "port": port, "config": config}).settings
    tls = tls or bool(settings.tls_certificate)
    if settings.port == 0:
        raise click.ClickException("Port 0 means any free one: say with --port which one it became.")
    address = LOOPBACK.get(settings.host, settings.host)
    shown = f"{'https' if tls else 'http'}://{f'[{address}]' if ':' in address else address}:{settings.port}{PATH}"
    try:
        status = _status(address, settings.port, tls=tls, timeout=timeout)
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"No answer from {shown}: {_words(error)}.") from None
    if status != 200:
        raise click.ClickException(f"Not ready: {shown} answers {status}.")
    click.echo("ready")


def _status(address: str, port: int, *, tls: bool, timeout: float) -> int:
    """The status of the answer. Never through the environment's HTTP proxies. Raises OSError and HTTPException."""
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False  # it is issued for the public name, and we ask the loopback address
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(address, port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", PATH, headers={"Connection": "close"})
        return connection.getresponse().status
    finally:
        connection.close()


def _words(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"it is not HTTP ({type(error).__name__})"
