"""``aicore-proxy why``: how a request was routed, and what each attempt came to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from aicore_proxy.cli.connection import ProxyError, asked, connection_of, connection_options
from aicore_proxy.cli.options import json_option
from aicore_proxy.cli.terminal import Terminal, out

REASONS = {
    "breaker": "breaker open",
    "subaccount": "subaccount left alone",
    "cooldown": "cools down after a 429",
    "gone": "not there, says SAP",
    "full": "as many requests as it may have",
}


@click.command()
@click.argument("request_id")
@json_option("Print it as JSON.")
@connection_options
def why(request_id: str, as_json: bool, url: str | None, key: str | None, config: Path | None) -> None:
    """Show how a request was routed: who could be asked, who was skipped and why, and each attempt.

    REQUEST_ID stands in every answer (x-request-id), in every error and in the log. The proxy remembers the last 10,000
    requests of each worker.
    """
    connection = connection_of(url, key, config)
    try:
        headers = {"Authorization": f"Bearer {connection.key.value}"}
        with asked(connection, f"/why/{quote(request_id, safe='')}", headers, timeout=10) as answer:
            told = json.loads(answer.body.read())
    except ProxyError as error:
        if error.status == 404:
            raise click.ClickException(f"The proxy does not remember a request {request_id}.") from None
        raise click.ClickException(str(error)) from None
    except ValueError:
        raise click.ClickException(f"{connection.url} did not answer with an explanation.") from None
    click.echo(json.dumps(told, indent=2) if as_json else "\n".join(lines(told, out())))


def lines(told: dict[str, Any], terminal: Terminal) -> list[str]:
    """An explanation for people."""
    what = "streamed" if told["stream"] else "whole"
    ended = f"{told['status']}" + (f" ({told['kind']})" if told["kind"] else "")
    text = [
        terminal.coloured(terminal.shown(told["request_id"]), bold=True),
        terminal.shown(
            f"{told['route']} · model {told['model'] or '—'} · key {told['key'] or '—'} · {what} → {ended} "
            f"after {seconds(told['duration_ms'])}"
            + (f", of it {told['overhead_ms']:g} ms ours" if told["overhead_ms"] is not None else "")
        ),
    ]
    if told["fallback"]:
        text.append(terminal.shown(f"Fallback: {told['fallback']} answered instead of the model that was asked for."))
    for number, plan in enumerate(told["plans"], 1):
        text += ["", terminal.coloured(f"Plan {number}" if len(told["plans"]) > 1 else "Plan", bold=True)]
        text += [terminal.shown(f"  {n}. {named(entry)}") for n, entry in enumerate(plan["ranked"], 1)]
        for entry in plan["skipped"]:
            wait = "" if entry["for_s"] is None or entry["reason"] == "full" else f", {entry['for_s']:g} s more"
            text.append(terminal.shown(f"  ✗  {named(entry)}: {REASONS.get(entry['reason'], entry['reason'])}{wait}"))
        if not plan["ranked"] and not plan["skipped"]:
            text.append("  nobody")
    if told["attempts"]:
        text += ["", terminal.coloured("Attempts", bold=True)]
        text += [terminal.shown(attempted(attempt)) for attempt in told["attempts"]]
    elif not told["plans"]:
        text += ["", "No deployment was looked for: it ended before that."]
    return text


def attempted(attempt: dict[str, Any]) -> str:
    """One attempt, in a line."""
    mark = "✓" if attempt["outcome"] == "ok" else "✗"
    ended, first = attempt["ended_ms"], attempt["first_byte_ms"]
    took = "" if ended is None else f" after {seconds(ended - attempt['started_ms'])}"
    began = "" if first is None else f", first byte {seconds(first - attempt['started_ms'])}"
    reason = f": {attempt['reason']}" if attempt["reason"] and attempt["outcome"] != "ok" else ""
    cached = {True: ", prompt cached there", False: ", new there"}.get(attempt["cached"], "")
    way = "relayed" if attempt["relayed"] else "translated"
    dropped = f", dropped {', '.join(attempt['dropped'])}" if attempt["dropped"] else ""
    again = f", asked again without {', '.join(attempt['refused'])}" if attempt["refused"] else ""
    came = f"{attempt['outcome']}{reason}{took}{began}"
    return f"  {mark} {attempt['number']}. {named(attempt)}: {came}, {way}{cached}{again}{dropped}"


def named(entry: dict[str, Any]) -> str:
    """A deployment."""
    return f"{entry['subaccount']}/{entry['deployment']} ({entry['model']}, {entry['resource_group']})"


def seconds(milliseconds: float) -> str:
    """A time that reads well."""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"
