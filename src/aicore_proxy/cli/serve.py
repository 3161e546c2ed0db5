"""``aicore-proxy serve`` and ``aicore-proxy run``: the proxy itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from aicore_proxy.cli.demo import simulated
from aicore_proxy.config.settings import Settings, SettingsError, from_environment, state_folder
from aicore_proxy.gateway.listing import names
from aicore_proxy.sap.credentials import CredentialsError, Found, ServiceKey, find_service_keys, service_key
from aicore_proxy.server import listen
from aicore_proxy.server.compose import Proxy, is_loopback
from aicore_proxy.server.configuration import Configuration
from aicore_proxy.server.keyfile import ClientKey, KeyFileError, obtain_key
from aicore_proxy.server.serving import serve_alone
from aicore_proxy.server.worker import loop_factory
from aicore_proxy.server.workers import Workers, WorkersError
from aicore_proxy.tasks import Supervisor
from aicore_proxy.telemetry import logs

log = logging.getLogger("aicore_proxy.cli")

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
        click.option("--workers", type=click.IntRange(1, 256), help="Processes that serve (1)."),
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
    slots = _slots(settings)
    host, port = slots[0][0].getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    told += [f"Base URL: {url}", _key_line(client_key, shown_always=demo)]
    for line in told:
        click.echo(line)
    configuration = Configuration(settings, client_key.key, tuple(keys), direct=demo)
    greeting = Greeting(url, client_key.key if demo else "$AICORE_PROXY_API_KEY")
    if settings.workers == 1:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_alone(configuration, slots[0], greeting))
        return
    try:
        asyncio.run(_several(configuration, slots, greeting))
    except WorkersError as error:
        raise click.ClickException(str(error)) from None


def _slots(settings: Settings) -> list[list[socket.socket]]:
    try:
        return listen.bind_slots(settings.host, settings.port, settings.workers)
    except OSError as error:
        words = f"Port {settings.port} on {settings.host} cannot be opened: {error.strerror or error}."
        raise click.ClickException(f"{words} Choose another: --port.") from None


def _key_line(client_key: ClientKey, *, shown_always: bool) -> str:
    if client_key.path is None:
        return f"API key: {client_key.key}" if shown_always else "API key: as in AICORE_PROXY_API_KEY"
    if shown_always or client_key.made_now:
        return f"API key: {client_key.key} (kept in {client_key.path})"
    return f"API key: in {client_key.path}"


class Greeting:
    """What is printed once, when the models are known."""

    def __init__(self, url: str, key: str) -> None:
        """``key``: as it stands in the line to try."""
        self._url = url
        self._key = key

    def print(self, models: Sequence[str]) -> None:
        """Prints the models, and a line to try."""
        if not models:
            click.echo("Models: none yet; the log says why. The proxy goes on looking.")
            return
        click.echo(f"Models: {', '.join(models)}")
        body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
        click.echo(
            f"Try: curl {self._url}/v1/chat/completions -H 'Authorization: Bearer {self._key}' "
            f"-H 'Content-Type: application/json' -d '{body}'"
        )


async def _alone(configuration: Configuration, listeners: list[socket.socket], greeting: Greeting) -> None:
    """One process that serves."""

    async def greet(proxy: Proxy) -> None:
        await proxy.first_look(FIRST_LOOK)
        greeting.print(names(proxy.landscape.catalog))

    await serve_alone(configuration, listeners, greet)


async def _several(configuration: Configuration, slots: list[list[socket.socket]], greeting: Greeting) -> None:
    """Several workers, and this process as their parent. Raises WorkersError."""
    settings = configuration.settings
    workers = Workers(
        slots,
        configuration,
        log_level=settings.log_level,
        drain_delay=settings.drain_delay,
        drain_timeout=settings.drain_timeout,
    )

    async def greet() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await workers.first_ready.wait()
        greeting.print(workers.models)

    supervisor = Supervisor()
    supervisor.start("greeting", greet())
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, workers.restart)
    try:
        await workers.run()
    finally:
        await supervisor.aclose()
