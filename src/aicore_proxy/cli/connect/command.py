"""``aicore-proxy connect``: settings of coding tools and SDKs for this proxy, printed, written and undone."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from aicore_proxy.cli.connect.backup import Backups, FileError, read, real
from aicore_proxy.cli.connect.check import tested
from aicore_proxy.cli.connect.choice import choice_of
from aicore_proxy.cli.connect.edit import Edit, FormatError
from aicore_proxy.cli.connect.formats import FORMATS, env_value
from aicore_proxy.cli.connect.tools import TOOLS, Plan, Tool
from aicore_proxy.cli.connection import Connection, ProxyError, connection_of, connection_options, models_of
from aicore_proxy.config.settings import state_folder


class Wish(Struct, frozen=True):
    """What the person asked for."""

    write: bool
    force: bool
    show_key: bool
    test: bool
    file: Path | None


@click.command()
@click.argument("tool", type=click.Choice(list(TOOLS)))
@click.option("--write", is_flag=True, help="Write the settings into the tool's file, and keep what was there.")
@click.option("--undo", is_flag=True, help="Put back what was there before --write.")
@click.option("--force", is_flag=True, help="With --undo: also where the file was changed since.")
@click.option("--model", help="The model that does the work (the newest Claude Sonnet, else another large one).")
@click.option("--small-model", help="The model for titles, summaries and such (the newest Claude Haiku, ...).")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="The settings file (the tool's own).")
@click.option("--show-key", is_flag=True, help="Print the key in full.")
@click.option("--test/--no-test", default=True, show_default=True, help="Whether one request tests the settings.")
@connection_options
def connect(
    tool: str,
    write: bool,
    undo: bool,
    force: bool,
    model: str | None,
    small_model: str | None,
    file: Path | None,
    show_key: bool,
    test: bool,
    url: str | None,
    key: str | None,
    config: Path | None,
) -> None:
    """Connect a TOOL to this proxy: print the settings it needs, or write them.

    Also chosen, from what the proxy serves, are the models that the tool asks by itself. Then one request tests the
    settings as the tool would use them. Exit code 0: they work; 1: they do not, or could not be written.
    """
    entry = TOOLS[tool]
    if write and undo:
        raise click.UsageError("--write and --undo: one of them, not both.")
    if (write or undo) and entry.file is None:
        raise click.UsageError(
            f"{entry.title} keeps its settings inside the editor: follow the steps that are printed."
        )
    wish = Wish(write, force, show_key, test, file)
    try:
        if undo:
            _say(_backups().undo(_file(entry, wish), tool, force=force))
            return
        connection = connection_of(url, key, config)
        choice = choice_of(models_of(connection), model, small_model)
        _connect(entry, Plan(connection.url, connection.key.value, choice), connection, wish)
    except (ProxyError, LookupError, FileError) as error:
        raise click.ClickException(str(error)) from None


def _connect(tool: Tool, plan: Plan, connection: Connection, wish: Wish) -> None:
    """Raises FileError."""
    if wish.write:
        _write(tool, plan, wish)
    else:
        _print(tool, plan, connection, wish)
    _tell_models(tool, plan)
    for note in _notes(tool, wish):
        _say(f"Note: {note}")
    works = not tool.public or (plan.url.startswith("https://") and not connection.loopback)
    if not works:
        words = f"{tool.title} will not work with {plan.url}: its requests come from its maker's servers, so the proxy"
        _say(click.style(f"{words} needs a public address with TLS. Give it with --url https://...", fg="red"))
    if wish.test:
        works &= _test(tool, plan, connection, wish)
    if not works:
        sys.exit(1)


def _test(tool: Tool, plan: Plan, connection: Connection, wish: Wish) -> bool:
    result = tested(connection, tool.protocol(plan.models), plan.models.main, tool.query)
    place = " from this machine" if tool.public else ""
    outcome = click.style("passed", fg="green") if result.works else click.style("FAILED", fg="red")
    _say(f"Test{place} {outcome}: {result.words}")
    if not result.works and wish.write:
        _say(f"The settings are written all the same: {_again(tool, wish)} --undo takes them back.")
    return result.works


# --- writing


def _write(tool: Tool, plan: Plan, wish: Wish) -> None:
    path = _file(tool, wish)
    text = _text(path)
    form = FORMATS[tool.form]
    edits = tool.edits(plan)
    try:
        merged = form.merge(text, edits)
        gone = [".".join(edit.path) for edit in edits if not edit.value and _stands(form.read(text), edit)]
    except FormatError as error:
        raise FileError(f"{path} {error}. It stays as it is.") from None
    done = _backups().write(path, merged.encode(), tool.name)
    if not done.changed:
        _say(f"{tool.title}: {done.path} holds these settings already.")
        return
    _say(f"{tool.title}: settings for {plan.url} written to {done.path}")
    _say("It holds the key, so only you may read it.")
    if gone:
        _say(f"Switched off, since it would lead elsewhere: {', '.join(gone)}")
    before = f"What was there before is in {done.backup}. " if done.backup else ""
    _say(f"{before}To undo: {_again(tool, wish)} --undo")


def _text(path: Path) -> str:
    try:
        return (read(path) or b"").decode()
    except UnicodeDecodeError:
        raise FileError(f"{path} is not UTF-8. It stays as it is.") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}.") from None


def _stands(value: object, edit: Edit) -> bool:
    """Whether there is something that the edit takes away."""
    for key in edit.path:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return bool(value != edit.value)


def _again(tool: Tool, wish: Wish) -> str:
    file = f" --file {shlex.quote(str(wish.file))}" if wish.file else ""
    return f"aicore-proxy connect {tool.name}{file}"


def _file(tool: Tool, wish: Wish) -> Path:
    assert tool.file is not None, "the command has looked"
    return (wish.file or tool.file(os.environ, Path.cwd())).expanduser().absolute()


def _backups() -> Backups:
    return Backups(state_folder(os.environ) / "connect")


# --- printing


def _print(tool: Tool, plan: Plan, connection: Connection, wish: Wish) -> None:
    key = connection.key
    shown = msgspec.structs.replace(plan, key=key.value if wish.show_key else key.masked)
    _say(f"{tool.title}: settings for {plan.url}")
    if tool.file is None:
        for number, step in enumerate(tool.steps(shown), 1):
            click.echo(f"{number}. {step}")
    elif tool.form == "env":
        for line in _exports(tool.edits(plan), connection, wish):
            click.echo(line)
        _say(f"--write puts this into {_file(tool, wish)}")
        if not wish.show_key and (key.path or key.variable):
            return
    else:
        _say(f"In {_file(tool, wish)}:\n")
        click.echo(
            FORMATS[tool.form].merge("", [edit for edit in tool.edits(shown) if edit.value is not None]), nl=False
        )
        _say("\n--write puts this into the file, and keeps what was there.")
    if not wish.show_key:
        _say(f"The key is shown in part: it is from {key.source}; --show-key prints it in full.")


def _exports(edits: Sequence[Edit], connection: Connection, wish: Wish) -> list[str]:
    """Lines for a shell: they work as they stand, and show no key where that can be."""
    key = connection.key
    hidden = env_value(key.masked)
    if key.path is not None:
        hidden = f'"$(cat {shlex.quote(str(key.path))})"'
    elif key.variable:
        hidden = f'"${key.variable}"'
    lines = []
    for edit in edits:
        if edit.value is None:
            lines.append(f"unset {edit.path[0]}")
        else:
            value = hidden if edit.value == key.value and not wish.show_key else env_value(edit.value)
            lines.append(f"export {edit.path[0]}={value}")
    return lines


def _tell_models(tool: Tool, plan: Plan) -> None:
    roles: dict[str, list[str]] = {}
    for use, model in tool.roles(plan.models).items():
        roles.setdefault(model, []).append(use)
    told = [f"{model} ({'; '.join(uses)})" for model, uses in roles.items()]
    _say(f"Models: {', '.join(told)}")
    if plan.models.main == plan.models.small and len(plan.models.all) == 1:
        _say("Only one model is deployed, so it makes titles and summaries too.")


def _notes(tool: Tool, wish: Wish) -> list[str]:
    """What else might have a say."""
    if tool.file is None:
        return []
    notes = [
        f"{name} is set in this shell: unset it, or it may come first." for name in tool.before if os.environ.get(name)
    ]
    own = real(_file(tool, wish))
    near = [Path.cwd() / name for name in tool.nearer]
    notes += [f"{path} comes before, where it sets the same." for path in near if path.is_file() and real(path) != own]
    if tool.form == "env" and wish.write:
        notes.append("keep the file out of version control: it holds the key.")
    return notes


def _say(text: str) -> None:
    """For the person: the standard output is for settings alone."""
    click.echo(text, err=True)
