"""What commands do first: read the configuration, find the credentials, and say what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from aicore_proxy.config.load import Loaded, load
from aicore_proxy.config.settings import SettingsError, home_of
from aicore_proxy.sap.credentials import CredentialsError, Found
from aicore_proxy.server.configuration import find_credentials, load_telling_all


def loaded_settings(options: Mapping[str, Any], *, whole: bool = False) -> Loaded:
    """The settings; ``options``: of the command line, with ``config``. ``whole``: the service keys and the certificate
    are wanted too, so what is wrong with them is told with the rest. Raises ClickException with every problem."""
    loading = load_telling_all if whole else load
    try:
        return loading(os.environ, overrides_of(options), file=options.get("config"))
    except SettingsError as error:
        raise click.ClickException("\n".join(["The settings are not usable:", *error.problems])) from None


def overrides_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the options of the command line."""
    return {name: value for name, value in options.items() if name != "config"}


def found_credentials(loaded: Loaded) -> Found:
    """The service keys. Raises ClickException with every problem."""
    try:
        return find_credentials(loaded, os.environ, home_of(os.environ))
    except CredentialsError as error:
        raise click.ClickException("\n".join(["The service keys are not usable:", *error.problems])) from None
