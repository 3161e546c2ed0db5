"""``aicore-proxy models``: what is deployed, under which names, and until when; asked of SAP itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from aicore_proxy.cli.accounts import Account, accounts, unserved_listed
from aicore_proxy.cli.demo import simulated
from aicore_proxy.cli.doctor import advice
from aicore_proxy.cli.loading import found_credentials, loaded_settings
from aicore_proxy.cli.looking import leave, look
from aicore_proxy.cli.options import config_option, json_option, seconds_option
from aicore_proxy.cli.terminal import Terminal, out
from aicore_proxy.config.settings import Settings
from aicore_proxy.landscape import Catalog, Deployment, Naming, admitted, catalog_of
from aicore_proxy.sap.credentials import Found, service_key
from aicore_proxy.sap.scope import Pin, chosen
from aicore_proxy.sap.survey import CatalogueEntry, Listed, Survey, survey
from aicore_proxy.sap.token import client_tls
from aicore_proxy.server.configuration import scopes_of
from aicore_proxy.upstream import Proxies, tls_context

FORMAT = 1
"""Of the JSON."""
NOTHING = "-"


class Place(Struct, frozen=True):
    """A deployment of a model. ``resolved``: the version that ``latest`` stands for; ``retires``: a date, empty while
    SAP names none; ``left_out``: why clients cannot have it, empty where they can."""

    id: str
    subaccount: str
    resource_group: str
    status: str
    version: str = ""
    resolved: str = ""
    retires: str = ""
    deprecated: bool = False
    created_at: str = ""
    left_out: str = ""


class Model(Struct, frozen=True):
    """A model and where it is deployed. ``names``: all others that clients may use for it."""

    model: str
    names: tuple[str, ...] = ()
    provider: str = ""
    context_length: int | None = None
    deployments: tuple[Place, ...] = ()


@click.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@config_option
@click.option("--subaccount", "subaccounts", multiple=True, help="Only of this one (several times).")
@click.option("--all", "everything", is_flag=True, help="Also what does not run, or is not served.")
@click.option("--available", is_flag=True, help="Instead: what SAP offers and is not deployed.")
@json_option()
@click.option("--demo", is_flag=True, help="Of the embedded simulator instead of an account.")
@seconds_option("--timeout", 20.0, "Seconds that SAP may take for one answer.")
def models(
    patterns: tuple[str, ...],
    config: Path | None,
    subaccounts: tuple[str, ...],
    everything: bool,
    available: bool,
    as_json: bool,
    demo: bool,
    timeout: float,
) -> None:
    """List the models that are deployed, with their names.

    Asks SAP, not a running proxy. A PATTERN (claude-*, gpt-5) means a model by any of its names. Exit code 1 if a
    subaccount could not be asked; what the others have is listed all the same.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # what would be logged is told below
    with simulated(0) if demo else nullcontext(("", None)) as (_, simulators):
        settings, found = _configured(config, simulators)
        keys = [key for key in found.keys if not subaccounts or key.name in subaccounts]
        if unknown := set(subaccounts) - {key.name for key in found.keys}:
            known = ", ".join(key.name for key in found.keys)
            raise click.ClickException(f"There is no subaccount {', '.join(sorted(unknown))}; there are {known}.")
        found = msgspec.structs.replace(found, keys=tuple(keys))
        looked, ended = look(_looked(settings, found, timeout, direct=demo))
    problems = [problem for _, seen in looked for problem in problems_of(seen)]
    for problem in problems:
        click.echo(problem, err=True)
    if available:
        _print_available(offered(looked, patterns), as_json=as_json, problems=problems)
    else:
        _print_deployed(deployed(settings, looked, patterns, everything), patterns, as_json=as_json, problems=problems)
    code = 1 if problems else 0
    if not ended:
        leave(code)
    sys.exit(code)


def _configured(file: Path | None, simulators: Mapping[str, Any] | None) -> tuple[Settings, Found]:
    loaded = loaded_settings({"config": file}, whole=simulators is None)
    if simulators is not None:
        keys = tuple(service_key(key, name, "the simulator") for name, key in simulators.items())
        return loaded.settings, Found(keys, "the simulator")
    found = found_credentials(loaded)
    if not found.keys:
        demo = "To see a list without an account: aicore-proxy models --demo"
        raise click.ClickException("\n  ".join(["No SAP AI Core service key was found.", *advice.no_key()[:-1], demo]))
    return loaded.settings, found


async def _looked(settings: Settings, found: Found, seconds: float, *, direct: bool) -> list[tuple[Account, Survey]]:
    """All subaccounts, looked at. Raises click.ClickException."""
    try:
        tls = await asyncio.to_thread(tls_context, os.environ)
        proxies = Proxies() if direct else Proxies.from_environ(os.environ)
        shown = {key.name: context for key in found.keys if (context := client_tls(key, os.environ)) is not None}
    except ValueError as error:
        raise click.ClickException(f"{error} aicore-proxy doctor tells more.") from None
    scopes = scopes_of(settings, found.keys)
    async with accounts(found.keys, scopes, tls=tls, proxies=proxies, client_tls=shown, seconds=seconds) as opened:
        seen = await asyncio.gather(*(survey(one.api, one.tokens, one.scope) for one in opened))
    return list(zip(opened, seen, strict=True))


# What is


def problems_of(seen: Survey) -> Iterable[str]:
    """Why a subaccount's deployments are not (all) known."""
    if seen.token_problem:
        yield seen.token_problem
    for group in seen.groups:
        if group.problem:
            yield f"{group.problem} (resource group {group.name})"


def deployed(
    settings: Settings, looked: Sequence[tuple[Account, Survey]], patterns: Sequence[str], everything: bool
) -> list[Model]:
    """The models that clients can have; with ``everything`` also the deployments that they cannot."""
    served: list[Deployment] = []
    pins: list[Pin] = []
    places: dict[str, list[Place]] = {}
    entries: dict[str, CatalogueEntry] = {}
    naming = Naming(settings.aliases, settings.models.include, settings.models.exclude)
    for account, seen in looked:
        entries |= seen.models
        for listed in seen.deployments:
            deployment = account.deployment(listed, seen)
            why = _left_out(account, listed, deployment, naming)
            if deployment is not None and not why:
                served.append(deployment)
                wanted = account.scope.pinned.items()
                pins += [Pin(name, deployment) for name, ids in wanted if deployment.id in ids]
            if everything or not why:
                name = listed.model or listed.scenario or listed.id
                places.setdefault(name, []).append(_place(account, listed, seen, why))
    catalog = catalog_of(served, naming=naming, pinned=chosen(pins)[0])
    listed_models = (_model(name, places[name], entries.get(name), catalog) for name in sorted(places))
    return [one for one in listed_models if not patterns or admitted((one.model, *one.names), patterns, ())]


def _left_out(account: Account, listed: Listed, deployment: Deployment | None, naming: Naming) -> str:
    """Why clients cannot have a deployment; empty where they can."""
    if listed.status != "RUNNING":
        return f"it is {listed.status or 'UNKNOWN'}"
    if why := unserved_listed(listed, deployment):
        return why
    assert deployment is not None, "it can be served"
    if not account.scope.admits(deployment) or not admitted((deployment.model,), naming.include, naming.exclude):
        return "the configuration leaves it out"
    return ""


def _place(account: Account, listed: Listed, seen: Survey, why: str) -> Place:
    entry = seen.models.get(listed.model)
    version = entry.version(listed.version) if entry is not None else None
    return Place(
        id=listed.id,
        subaccount=account.key.name,
        resource_group=listed.resource_group,
        status=listed.status or "UNKNOWN",
        version=listed.version,
        resolved=version.name if version is not None else "",
        retires=version.retires[:10] if version is not None else "",
        deprecated=version.deprecated if version is not None else False,
        created_at=listed.created_at,
        left_out=why,
    )


def _model(name: str, places: Iterable[Place], entry: CatalogueEntry | None, catalog: Catalog) -> Model:
    given = (*catalog.naming.aliases, *catalog.pinned, *catalog.aliases)
    names = tuple(dict.fromkeys(other for other in given if other != name and catalog.resolve(other) == name))
    latest = entry.version("latest") if entry is not None else None
    ordered = sorted(places, key=lambda place: (place.subaccount, place.resource_group, place.id))
    length = latest.context_length if latest is not None else None
    return Model(name, names, entry.provider if entry is not None else "", length, tuple(ordered))


class Offer(Struct, frozen=True):
    """A model of SAP's catalogue that a subaccount may deploy and has not."""

    model: str
    provider: str
    executable: str
    subaccounts: tuple[str, ...]
    version: str = ""
    context_length: int | None = None
    retires: str = ""
    deprecated: bool = False


def offered(looked: Sequence[tuple[Account, Survey]], patterns: Sequence[str]) -> list[Offer]:
    """What SAP offers and the subaccounts do not run."""
    found: dict[str, Offer] = {}
    for account, seen in looked:
        running = {listed.model for listed in seen.deployments if listed.status == "RUNNING"}
        for name, entry in seen.models.items():
            direct = not entry.scenarios or "foundation-models" in entry.scenarios
            if name in running or not direct or (patterns and not admitted((name,), patterns, ())):
                continue
            before = found[name].subaccounts if name in found else ()
            latest = entry.version("latest")
            found[name] = Offer(
                name,
                entry.provider,
                entry.executable,
                (*before, account.key.name),
                latest.name if latest is not None else "",
                latest.context_length if latest is not None else None,
                latest.retires[:10] if latest is not None else "",
                latest.deprecated if latest is not None else False,
            )
    return [found[name] for name in sorted(found)]


# How it is shown


def _print_deployed(found: Sequence[Model], patterns: Sequence[str], *, as_json: bool, problems: Sequence[str]) -> None:
    if as_json:
        _print_json({"models": msgspec.to_builtins(found)}, problems)
        return
    if not found:
        what = f"meets {', '.join(patterns)} and" if patterns else "is deployed that"
        click.echo(
            f"No model {what} could be used (--all lists what does not run, --available what SAP offers).", err=True
        )
    for line in deployed_lines(found, out()):
        click.echo(line)


def deployed_lines(found: Sequence[Model], terminal: Terminal) -> Iterable[str]:
    """A table as wide as the terminal lets it be; on a narrow one a block for each model."""
    statuses = any(place.left_out for model in found for place in model.deployments)
    head = ["MODEL", "SUBACCOUNT", "GROUP", "DEPLOYMENT", "VERSION", "RETIRES", *(["STATUS"] if statuses else [])]
    lines = [
        [
            model.model if number == 0 or not terminal.live else "",
            *_cells(place),
            *([_status(place)] if statuses else []),
        ]
        for model in found
        for number, place in enumerate(model.deployments)
    ]
    also = [
        ", ".join(model.names) if number == 0 or not terminal.live else ""
        for model in found
        for number, _ in enumerate(model.deployments)
    ]
    if not any(also):
        wide = table(head, lines, terminal)
    else:
        named = [[line[0], names, *line[1:]] for line, names in zip(lines, also, strict=True)]
        wide = table([head[0], "ALSO", *head[1:]], named, terminal)
    if wide is not None:
        return wide
    if (shown := table(head, lines, terminal)) is not None:
        return _with_names(shown, also, terminal)
    return _blocks(found, terminal)


def _cells(place: Place) -> list[str]:
    retires = place.retires or ("deprecated" if place.deprecated else NOTHING)
    return [place.subaccount, place.resource_group, place.id, _version(place), retires]


def _version(place: Place) -> str:
    if place.version in ("", "latest") and place.resolved:
        return f"latest ({place.resolved})"
    return place.version or NOTHING


def _status(place: Place) -> str:
    return place.left_out if place.status == "RUNNING" and place.left_out else place.status


def table(head: Sequence[str], lines: Sequence[Sequence[str]], terminal: Terminal) -> list[str] | None:
    """Aligned columns; None where they do not fit."""
    if not lines:
        return []
    cells = [[terminal.shown(cell) for cell in line] for line in (head, *lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    if terminal.live and sum(widths) + 2 * (len(widths) - 1) > terminal.width:
        return None
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _with_names(lines: Sequence[str], also: Sequence[str], terminal: Terminal) -> Iterable[str]:
    yield lines[0]
    for line, names in zip(lines[1:], also, strict=True):
        yield line
        if names:
            yield from terminal.wrapped(f"also {names}", "  ", "    ")


def _blocks(found: Sequence[Model], terminal: Terminal) -> Iterable[str]:
    for model in found:
        yield terminal.shown(model.model)
        if model.names:
            yield from terminal.wrapped(f"also {', '.join(model.names)}", "  ", "    ")
        for place in model.deployments:
            retires = f", retires {place.retires}" if place.retires else ", deprecated" if place.deprecated else ""
            status = f", {_status(place)}" if place.left_out else ""
            words = f"{place.id} {place.subaccount}/{place.resource_group} {_version(place)}{retires}{status}"
            yield from terminal.wrapped(words, "  ", "    ")


def _print_available(found: Sequence[Offer], *, as_json: bool, problems: Sequence[str]) -> None:
    if as_json:
        _print_json({"available": msgspec.to_builtins(found)}, problems)
        return
    for line in offered_lines(found, out()):
        click.echo(line)


def offered_lines(found: Sequence[Offer], terminal: Terminal) -> Iterable[str]:
    """As ``deployed_lines``, of what could be deployed."""
    if not found:
        return ["SAP offers nothing that is not deployed already."]
    head = ["MODEL", "PROVIDER", "EXECUTABLE", "VERSION", "CONTEXT", "RETIRES", "SUBACCOUNTS"]
    lines = [
        [
            offer.model,
            offer.provider or NOTHING,
            offer.executable or NOTHING,
            offer.version or NOTHING,
            f"{offer.context_length:,}" if offer.context_length is not None else NOTHING,
            offer.retires or ("deprecated" if offer.deprecated else NOTHING),
            ", ".join(offer.subaccounts),
        ]
        for offer in found
    ]
    for shorter in (7, 6, 4, 2):
        shown = table(head[:shorter], [line[:shorter] for line in lines], terminal)
        if shown is not None:
            return shown
    return [terminal.shown(offer.model) for offer in found]


def _print_json(value: Mapping[str, Any], problems: Sequence[str]) -> None:
    click.echo(json.dumps({"format": FORMAT, "complete": not problems, **value, "problems": list(problems)}, indent=2))
