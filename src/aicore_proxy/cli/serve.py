"""``aicore-proxy serve`` and ``aicore-proxy run``: the proxy itself."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aicore_proxy.cli.demo import simulated
from aicore_proxy.cli.here import url_of
from aicore_proxy.cli.loading import found_credentials, loaded_settings, overrides_of
from aicore_proxy.cli.options import config_option
from aicore_proxy.config.load import Loaded
from aicore_proxy.config.settings import Settings, SettingsError, state_folder
from aicore_proxy.gateway.keys import ClientKey, client_key
from aicore_proxy.gateway.listing import names
from aicore_proxy.sap.credentials import Found, service_key
from aicore_proxy.server import listen
from aicore_proxy.server.configuration import DEFAULT_KEY, Configuration, certificate_problems, configuration_of
from aicore_proxy.server.keyfile import ClientKey as KeptKey
from aicore_proxy.server.keyfile import KeyFileError, obtain_key
from aicore_proxy.server.reload import Load, Reloader, Source
from aicore_proxy.server.stopping import on_signal
from aicore_proxy.server.tls import CertificateError
from aicore_proxy.server.workers import Workers, WorkersError
from aicore_proxy.tasks import Supervisor
from aicore_proxy.telemetry import logs

if TYPE_CHECKING:
    from aicore_proxy.server.compose import Proxy

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
        click.option(
            "--debug", "log_level", flag_value="debug", help="As --log-level debug: bodies too, without what they say."
        ),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged."),
        click.option(
            "--port", type=click.IntRange(0, 65535), help="Port to listen on (PORT, then 3001; 0: a free one)."
        ),
        config_option,
        click.option("--host", help="Address to listen on (127.0.0.1); a public one needs AICORE_PROXY_API_KEY."),
    ):
        command = option(command)
    return command


@click.command()
@listening
def serve(**options: Any) -> None:
    """Serve the models of your SAP AI Core account."""
    loaded = loaded_settings(options, whole=True)
    found = found_credentials(loaded)
    if not found.keys:
        raise click.ClickException(NO_KEY)
    _serve(loaded, found, options)


@click.command()
@listening
def run(**options: Any) -> None:
    """Serve your account if there is a service key, else a demo on the embedded simulator."""
    loaded = loaded_settings(options, whole=True)
    found = found_credentials(loaded)
    if found.keys:
        _serve(loaded, found, options)
        return
    with simulated(loaded.settings.simulator_port) as (url, raw):
        keys = tuple(service_key(key, name, "the simulator") for name, key in raw.items())
        told = ["Demo mode: no SAP AI Core service key was found, so the models are simulated.", f"Simulator: {url}"]
        _serve(loaded, Found(keys), options, told)


def _serve(loaded: Loaded, found: Found, options: dict[str, Any], demo: Sequence[str] = ()) -> None:
    """``demo``: what is told of it; empty: it is none."""
    settings = loaded.settings
    logs.set_up(settings.log_level, settings.log_format)
    made = _made_key(settings)
    try:
        configuration = configuration_of(loaded, found.keys, os.environ, default_key(made), direct=bool(demo))
        if problems := certificate_problems(loaded):  # before the port opens
            raise SettingsError(problems)
    except SettingsError as error:
        raise click.ClickException("\n".join(["The settings are not usable:", *error.problems])) from None
    slots = _slots(settings)
    host, port = slots[0][0].getsockname()[:2]
    url = url_of(host, port, tls=bool(settings.tls_certificate))
    told = [] if loaded.file is None else [f"Configuration: {loaded.file}"]
    told += demo or [f"Service keys: {found.source}"]
    told += [*loaded.notes, *found.notes, f"Base URL: {url}", _key_line(settings, made, shown_always=bool(demo))]
    for line in told:
        click.echo(line)
    key = settings.api_key or (made.key if made is not None else "")
    greeting = Greeting(url, key if demo and key else "$AICORE_PROXY_API_KEY")

    # The very file that was found: one that is deleted is an error, and not a reason to look elsewhere
    simulated = found if demo else None
    source = Source(os.environ, overrides_of(options), file=loaded.file, simulated=simulated, noted=found.notes)
    files = (*loaded.files, *found.files)
    try:
        if settings.workers == 1:
            with asyncio.Runner(loop_factory=listen.loop_factory()) as runner:
                runner.run(_alone(configuration, slots[0], greeting, source.load, files))
        else:
            asyncio.run(_several(configuration, slots, greeting, source.load, files))
    except (WorkersError, CertificateError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def default_key(made: KeptKey | None) -> ClientKey | None:
    """The key that was made, as the gateway knows it."""
    return None if made is None else client_key(DEFAULT_KEY, made.key)


def _made_key(settings: Settings) -> KeptKey | None:
    """The key of an installation that was given none; None: it was given some."""
    if settings.api_key or settings.keys:
        return None
    try:
        return obtain_key("", state_folder(os.environ))
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None


def _slots(settings: Settings) -> list[list[socket.socket]]:
    try:
        return listen.bind_slots(settings.host, settings.port, settings.workers)
    except OSError as error:
        words = f"Port {settings.port} on {settings.host} cannot be opened: {error.strerror or error}."
        raise click.ClickException(f"{words} Choose another: --port.") from None


def _key_line(settings: Settings, made: KeptKey | None, *, shown_always: bool) -> str:
    if made is None:
        if settings.keys:
            return f"API keys: {', '.join(key.name for key in settings.keys)}"
        return f"API key: {settings.api_key}" if shown_always else "API key: as in AICORE_PROXY_API_KEY"
    if shown_always or made.made_now:
        return f"API key: {made.key} (kept in {made.path})"
    return f"API key: in {made.path}"


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
            f'Try: curl {self._url}/v1/chat/completions -H "Authorization: Bearer {self._key}" '
            f"-H 'Content-Type: application/json' -d '{body}'"
        )


async def _alone(
    configuration: Configuration, listeners: list[socket.socket], greeting: Greeting, load: Load, files: Sequence[Path]
) -> None:
    """One process that serves."""
    # Here, since the parent of workers needs nothing of what serves
    from aicore_proxy.server.serving import serve_alone  # noqa: PLC0415

    async def begun(proxy: Proxy) -> None:
        reloader = Reloader(load, proxy.reload, files, current=configuration, outcome=proxy.metrics.reloaded)
        on_signal("SIGHUP", reloader.reload)
        proxy.supervisor.start("configuration", reloader.watch())
        await proxy.first_look(FIRST_LOOK)
        greeting.print(names(proxy.landscape.catalog))

    await serve_alone(configuration, listeners, begun)


async def _several(
    configuration: Configuration,
    slots: list[list[socket.socket]],
    greeting: Greeting,
    load: Load,
    files: Sequence[Path],
) -> None:
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
    reloader = Reloader(load, workers.configure, files, current=configuration, outcome=workers.reloaded)
    supervisor.start("configuration", reloader.watch())
    on_signal("SIGHUP", reloader.reload)
    on_signal("SIGUSR2", workers.restart)
    try:
        await workers.run()
    finally:
        await supervisor.aclose()
