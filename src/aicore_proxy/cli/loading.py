"""What commands do first: read the configuration, find the credentials, and say what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from aicore_proxy.config.load import Loaded, load
from aicore_proxy.config.settings import SettingsError, home_of
from aicore_proxy.sap.credentials import CredentialsError, Found
from aicore_proxy.server.configuration import find_credentials

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file (AICORE_PROXY_CONFIG, then aicore-proxy.yaml here, then the user's own).",
)


def loaded_settings(options: Mapping[str, Any]) -> Loaded:
    """The settings; ``options``: of the command line, with ``config``. Raises ClickException with every problem."""
    try:
        overrides = {name: value for name, value in options.items() if name != "config"}
        return load(os.environ, overrides, file=options.get("config"))
    except SettingsError as error:
        raise click.ClickException("\n".join(["The settings are not usable:", *error.problems])) from None


def found_credentials(loaded: Loaded) -> Found:
    """The service keys. Raises ClickException with every problem."""
    try:
        return find_credentials(loaded, os.environ, home_of(os.environ))
    except CredentialsError as error:
        raise click.ClickException("\n".join(["The service keys are not usable:", *error.problems])) from None
