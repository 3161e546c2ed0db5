"""``simulate``: the simulator from the command line."""

from __future__ import annotations

import ssl
from pathlib import Path

import click

from aicore_proxy.simulator.landscape import Landscape, LandscapeError, demo, load
from aicore_proxy.simulator.running import serve, tls_context

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8911, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: a free one.")
@click.option("--landscape", "landscape_file", type=FILE, help="What is deployed, as JSON. Else a demo landscape.")
@click.option("--seed", default=0, show_default=True, help="Of everything that is random.")
@click.option("--fast", is_flag=True, help="For benchmarks: frames unsplit, requests unrecorded, plain answers ready.")
@click.option("--expires-in", type=int, help="Life of a token in seconds.  [default: 43199]")
@click.option("--strict", is_flag=True, help="Refuse what is only said to be refused, too.")
@click.option("--tls-cert", type=FILE, help="Certificate chain (PEM): serve with TLS.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM), if it stands in a file of its own.")
@click.option("--client-ca", type=FILE, help="CA (PEM) of client certificates: tokens over mutual TLS too (certurl).")
@click.option("--certified-port", default=0, type=click.IntRange(0, 65535), help="Port of that; 0: a free one.")
@click.option("--announce", is_flag=True, help='Print {"url": …} when ready; end when standard input closes.')
def simulate(
    host: str,
    port: int,
    landscape_file: Path | None,
    seed: int,
    fast: bool,
    expires_in: int | None,
    strict: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
    certified_port: int,
    announce: bool,
) -> None:
    """Serve a simulated SAP AI Core: token endpoint, AI API and model deployments, scriptable at run time."""
    if client_ca is not None and tls_cert is None:
        raise click.UsageError("--client-ca needs --tls-cert: a certificate to show in return.")
    landscape = _landscape(landscape_file)
    if expires_in is not None:
        landscape.switches.expires_in = expires_in
    if strict:
        landscape.switches.strict = True
    try:
        tls = tls_context(tls_cert, tls_key) if tls_cert is not None else None
        certified = tls_context(tls_cert, tls_key, client_ca) if tls_cert is not None and client_ca else None
        serve(
            landscape,
            host=host,
            port=port,
            seed=seed,
            fast=fast,
            tls=tls,
            announce=announce,
            certified=certified,
            certified_port=certified_port,
        )
    except (OSError, ssl.SSLError, LandscapeError) as error:
        raise click.ClickException(str(error)) from None


def _landscape(file: Path | None) -> Landscape:
    if file is None:
        return demo()
    try:
        return load(file)
    except (LandscapeError, OSError) as error:
        raise click.ClickException(str(error)) from None
