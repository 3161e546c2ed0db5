"""``aicore-proxy serve`` and ``aicore-proxy run``: the proxy itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from aicore_proxy.cli.demo import simulated
from aicore_proxy.config.settings import Settings, SettingsError, from_environment, state_folder
from aicore_proxy.gateway.listing import names
from aicore_proxy.sap.credentials import CredentialsError, Found, ServiceKey, find_service_keys, service_key
from aicore_proxy.server import listen
from aicore_proxy.server.compose import Proxy, is_loopback
from aicore_proxy.server.edge import Limits
from aicore_proxy.server.keyfile import ClientKey, KeyFileError, obtain_key
from aicore_proxy.telemetry import logs

log = logging.getLogger("aicore_proxy.cli")

GRACE = 5
"""Seconds for answers in flight after SIGTERM."""
FIRST_LOOK = 5.0
"""Seconds that the printed list of models waits for."""
NO_KEY = """No SAP AI Core service key was found. Give one in any of these ways:
  AICORE_SERVICE_KEY          the service key's JSON
  AICORE_CLIENT_ID, ...       as SAP's SDKs have it, or ~/.aicore/config.json
  AICORE_PROXY_SERVICE_KEYS   a folder of service keys, one JSON file per subaccount
To try the proxy without an account: aicore-proxy run"""


def listening(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both commands have."""
    for option in (
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged."),
        click.option(
            "--port", type=click.IntRange(0, 65535), help="Port to listen on (PORT, then 3001; 0: a free one)."
        ),
        click.option("--host", help="Address to listen on (127.0.0.1); a public one needs AICORE_PROXY_API_KEY."),
    ):
        command = option(command)
    return command


@click.command()
@listening
def serve(**options: Any) -> None:
    """Serve the models of your SAP AI Core account."""
    settings = _settings(options)
    found = _service_keys()
    if not found.keys:
        raise click.ClickException(NO_KEY)
    _serve(settings, found.keys, [f"Service keys: {found.source}", *found.notes])


@click.command()
@listening
def run(**options: Any) -> None:
    """Serve your account if there is a service key, else a demo on the embedded simulator."""
    settings = _settings(options)
    found = _service_keys()
    if found.keys:
        _serve(settings, found.keys, [f"Service keys: {found.source}", *found.notes])
        return
    with simulated(settings.simulator_port) as (url, raw):
        keys = [service_key(key, name, "the simulator") for name, key in raw.items()]
        told = ["Demo mode: no SAP AI Core service key was found, so the models are simulated.", f"Simulator: {url}"]
        _serve(settings, keys, told, demo=True)


def _settings(options: dict[str, Any]) -> Settings:
    try:
        settings = from_environment(os.environ, options)
    except SettingsError as error:
        raise click.ClickException("\n".join(["The settings are not usable:", *error.problems])) from None
    if not settings.api_key and not is_loopback(settings.host):
        words = f"Listening on {settings.host} lets others in: set AICORE_PROXY_API_KEY, or listen on 127.0.0.1."
        raise click.ClickException(words)
    return settings


def _service_keys() -> Found:
    try:
        return find_service_keys(os.environ, Path.home())
    except CredentialsError as error:
        raise click.ClickException("\n".join(["The service keys are not usable:", *error.problems])) from None


def _serve(settings: Settings, keys: Sequence[ServiceKey], told: list[str], *, demo: bool = False) -> None:
    logs.set_up(settings.log_level)
    try:
        client_key = obtain_key(settings.api_key, state_folder(os.environ))
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None
    listeners = _listeners(settings)
    host, port = listeners[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    told += [f"Base URL: http://{shown}:{port}", _key_line(client_key, shown_always=demo)]
    for line in told:
        click.echo(line)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_live(settings, client_key.key, keys, listeners, f"http://{shown}:{port}", demo=demo))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def _listeners(settings: Settings) -> list[socket.socket]:
    try:
        return listen.bind(settings.host, settings.port)
    except OSError as error:
        words = f"Port {settings.port} on {settings.host} cannot be opened: {error.strerror or error}."
        raise click.ClickException(f"{words} Choose another: --port.") from None


def _key_line(client_key: ClientKey, *, shown_always: bool) -> str:
    if client_key.path is None:
        return f"API key: {client_key.key}" if shown_always else "API key: as in AICORE_PROXY_API_KEY"
    if shown_always or client_key.made_now:
        return f"API key: {client_key.key} (kept in {client_key.path})"
    return f"API key: in {client_key.path}"


async def _live(
    settings: Settings,
    api_key: str,
    keys: Sequence[ServiceKey],
    listeners: list[socket.socket],
    url: str,
    *,
    demo: bool,
) -> None:
    listen.raise_descriptor_limit()
    proxy = Proxy(settings, api_key, keys, direct=demo)
    limits = Limits(
        head=settings.head_limit,
        head_time=settings.head_timeout,
        idle=settings.idle_timeout,
        stuck=settings.stuck_timeout,
    )
    server = listen.server(proxy.application, limits=limits, graceful_timeout=GRACE)
    await proxy.start()
    try:
        proxy.supervisor.start("greeting", _greet(proxy, api_key if demo else "$AICORE_PROXY_API_KEY", url))
        # uvicorn raises the signals again that ended it: everything below must still run
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _already_heard)
        await server.serve(listen.spread(listeners))
    finally:
        await proxy.aclose()


def _already_heard(number: int, frame: object) -> None:
    """A signal that the server has acted on."""


async def _greet(proxy: Proxy, key: str, url: str) -> None:
    """Prints the models as soon as they are known, and a line to try."""
    await proxy.first_look(FIRST_LOOK)
    models = names(proxy.landscape.catalog)
    if not models:
        click.echo("Models: none yet; the log says why. The proxy goes on looking.")
        return
    click.echo(f"Models: {', '.join(models)}")
    body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    click.echo(
        f"Try: curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
