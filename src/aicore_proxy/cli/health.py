"""``aicore-proxy health``: whether the proxy on this machine is ready, as an exit code for health checks."""

from __future__ import annotations

import http.client
from pathlib import Path

import click

from aicore_proxy.cli.here import READY, address_of, readiness, url_of
from aicore_proxy.cli.loading import loaded_settings
from aicore_proxy.cli.options import config_option, seconds_option


@click.command()
@config_option
@click.option("--host", help="Address to ask (the one that the proxy is set to listen on).")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to ask (PORT, then AICORE_PROXY_PORT, then 3001).")
@click.option("--tls", is_flag=True, help="The proxy itself speaks TLS; its certificate is not checked.")
@seconds_option("--timeout", 5.0, "Seconds to wait.")
def health(config: Path | None, host: str | None, port: int | None, tls: bool, timeout: float) -> None:
    """Ask whether the proxy is ready: exit code 0 if it is, 1 if not.

    Ready means that it knows at least one deployment. Reads the same settings as the proxy; sends no key.
    """
    settings = loaded_settings({"host": host, "port": port, "config": config}).settings
    tls = tls or bool(settings.tls_certificate)
    if settings.port == 0:
        raise click.ClickException("Port 0 means any free one: say with --port which one it became.")
    address = address_of(settings.host)
    shown = url_of(address, settings.port, tls=tls) + READY
    try:
        with readiness(address, settings.port, tls=tls, timeout=timeout) as answer:
            status = answer.status
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"No answer from {shown}: {_words(error)}.") from None
    if status != 200:
        raise click.ClickException(f"Not ready: {shown} answers {status}.")
    click.echo("ready")


def _words(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"it is not HTTP ({type(error).__name__})"
