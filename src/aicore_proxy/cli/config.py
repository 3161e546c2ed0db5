"""``aicore-proxy config``: checks, shows and converts configurations, and prints their schema."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from aicore_proxy.cli.options import config_option, json_option
from aicore_proxy.config.document import Document, printable, read_document
from aicore_proxy.config.imports import imported
from aicore_proxy.config.load import Loaded, load
from aicore_proxy.config.render import masked, without_empty, yaml_of
from aicore_proxy.config.schema import schema
from aicore_proxy.config.settings import SettingsError, home_of
from aicore_proxy.sap.credentials import CredentialsError, ServiceKey
from aicore_proxy.sap.token import client_tls
from aicore_proxy.server.configuration import (
    certificate_problems,
    find_credentials,
    load_telling_all,
    name_problems,
)

FILE = click.Path(path_type=Path)


@click.group("config")
def config() -> None:
    """Check, show and convert configurations."""


@config.command("check")
@click.argument("file", type=FILE, required=False)
@config_option
def check(file: Path | None, config: Path | None) -> None:
    """Check a configuration FILE, or the one that the proxy would read here.

    Exit code 0: it is good; 1: each problem stands in a line of its own. Asks nobody: whether the keys work is told by
    `aicore-proxy doctor`.
    """
    loaded = _loaded(file or config, load_telling_all)
    problems = certificate_problems(loaded) + name_problems(loaded)
    notes = list(loaded.notes)
    summary = _summary(loaded)
    try:
        found = find_credentials(loaded, os.environ, home_of(os.environ))
        notes += found.notes
        problems += [problem for key in found.keys if (problem := _unfit_certificate(key))]
        names = ", ".join(key.name for key in found.keys)
        summary.append(f"Service keys: {names} ({found.source})" if found.keys else "Service keys: none found")
    except CredentialsError as error:
        problems += error.problems
    if problems:
        _refuse(problems)
    for line in (*summary, *(f"Note: {note}" for note in notes)):
        click.echo(line)
    click.echo("The configuration is good." if loaded.file else "The settings are good.")


@config.command("show")
@click.argument("file", type=FILE, required=False)
@config_option
@json_option("As JSON, for scripts.")
@click.option("--changed", is_flag=True, help="Only what is not a default.")
def show(file: Path | None, config: Path | None, as_json: bool, changed: bool) -> None:
    """Show every setting of a configuration FILE, or of the one that the proxy would read here, and where its value is
    from. Secrets are masked."""
    loaded = _loaded(file or config)
    plain = masked(loaded.settings)
    if changed:
        plain = {name: value for name, value in plain.items() if name in loaded.origins}
    if as_json:
        origins = {setting: loaded.origins.get(setting, "default") for setting in plain}
        name = str(loaded.file) if loaded.file else None
        whole = {"file": name, "settings": plain, "origins": origins, "notes": loaded.notes}
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))
        return
    click.echo(f"# {_summary(loaded)[0]}")
    for line in _lines(without_empty(plain), loaded):
        click.echo(line)
    for note in loaded.notes:
        click.echo(f"Note: {note}", err=True)


@config.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of a configuration file, for editors."""
    click.echo(json.dumps(schema(), indent=2, ensure_ascii=False))


@config.command("import")
@click.argument("file", type=FILE)
@click.option("--output", "-o", type=FILE, help="Write it there, readable for you alone; else it is printed.")
@click.option("--force", is_flag=True, help="Replace the output if it is there.")
def import_(file: Path, output: Path | None, force: bool) -> None:
    """Convert FILE, the configuration of another proxy: LiteLLM's YAML with sap/ models, aicore-router's YAML, or the
    config.json of sap-ai-core-llm-proxy. What could not be taken stands in comments.
    """
    try:
        made = imported(_document(file), Path.cwd())
    except SettingsError as error:
        _refuse(error.problems)
    text = made.text(file.name)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL), 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise click.ClickException(f"{output} is there already; --force replaces it.") from None
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror or error}.") from None
    for remark in made.remarks:
        click.echo(f"- {printable(remark)}")
    click.echo(f"Written: {output}, from the configuration of {made.kind}. It may hold secrets.")
    try:
        load(os.environ, file=output)
    except SettingsError as error:
        click.echo("\n".join(["What it still needs:", *error.problems]), err=True)


def _unfit_certificate(key: ServiceKey) -> str:
    try:
        client_tls(key, os.environ)
    except ValueError as error:
        return str(error)
    return ""


def _document(file: Path) -> Document:
    return read_document(Path.cwd() / file)


def _loaded(file: Path | None, loading: Callable[..., Loaded] = load) -> Loaded:
    try:
        return loading(os.environ, file=file)
    except SettingsError as error:
        _refuse(error.problems)


def _refuse(problems: list[str]) -> NoReturn:
    """Every problem, a line each, and the end."""
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}.", err=True)
    sys.exit(1)


def _summary(loaded: Loaded) -> list[str]:
    settings = loaded.settings
    if loaded.file is None:
        return ["Configuration: no file; variables and defaults"]
    counts = (
        (len(settings.subaccounts), "subaccount"),
        (len(settings.keys), "key"),
        (len(settings.aliases), "alias"),
    )
    told = [
        f"{count} {name}{'' if count == 1 else 'es' if name == 'alias' else 's'}" for count, name in counts if count
    ]
    return [f"Configuration: {loaded.file}", *([f"Holds: {', '.join(told)}"] if told else [])]


def _lines(plain: dict[str, Any], loaded: Loaded) -> list[str]:
    """YAML, with where each setting is from beside it; defaults are dim."""
    lines: list[str] = []
    for name, value in plain.items():
        first, *more = yaml_of({name: value}).splitlines()
        origin = loaded.origins.get(name)
        line = f"{first:<44} # {origin or 'default'}"
        lines += [line if origin else click.style(line, dim=True), *more]
    return lines
