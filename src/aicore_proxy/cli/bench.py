"""``aicore-proxy bench``: load on any compatible endpoint, and what it bears."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from aicore_proxy.bench import generator, summary
from aicore_proxy.bench.tally import Plan, Progress
from aicore_proxy.bench.target import target_of
from aicore_proxy.cli.options import json_option, seconds_option
from aicore_proxy.cli.terminal import Terminal

DURATION = 10.0
KEYS = ("AICORE_PROXY_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")


@click.command()
@click.argument("url")
@click.option("--model", required=True, help="The model to ask for.")
@click.option("--protocol", type=click.Choice(["chat", "messages"]), default="chat", show_default=True)
@click.option("--key", help=f"API key; better by a variable: {', '.join(KEYS)}.")
@click.option("-c", "--concurrency", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Connections.")
@click.option("-d", "--duration", type=click.FloatRange(0, min_open=True), help="Seconds.  [default: 10, or --count]")
@click.option("-n", "--count", type=click.IntRange(1), help="Requests.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Requests per second, due whatever the answers take."
)
@click.option("--stream", is_flag=True, help="Ask for streams.")
@click.option("--size", type=click.IntRange(0, 64_000_000), default=1024, show_default=True, help="Bytes of a body.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="For Messages.")
@click.option("--new-connections", is_flag=True, help="A new connection for every request.")
@seconds_option("--timeout", 60.0, "Seconds of silence that end a request.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust (PEM).")
@click.option("--insecure", is_flag=True, help="Do not check certificates.")
@json_option("Print the result as JSON.")
def bench(url: str, **options: Any) -> None:
    """Put load on the endpoint at URL and tell what it bears.

    URL is a base URL (http://127.0.0.1:3001) or a whole endpoint. Exits with 1 if a request failed, or none succeeded.
    """
    plan = _plan(url, options)
    progress = Bar(plan, Terminal.of(sys.stderr))
    try:
        target_of(url, plan.protocol)
        with interrupts_left_to_the_generator():
            tally = generator.run(plan, progress.show)
    except (ValueError, generator.GeneratorError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        progress.clear()
    if options["as_json"]:
        click.echo(json.dumps(summary.as_json(plan, tally), indent=2))
    else:
        terminal = Terminal.of(sys.stdout)
        for line in summary.as_text(plan, tally, terminal.width, "█" if terminal.unicode else "#"):
            click.echo(line if terminal.unicode else terminal.shown(line.replace("µ", "u")))
    if tally.failed or not tally.succeeded:
        sys.exit(1)


@contextmanager
def interrupts_left_to_the_generator() -> Iterator[None]:
    """However often Ctrl-C is pressed, and whatever it meets us at: it ends the run, not its report."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the generator would inherit
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _plan(url: str, options: dict[str, Any]) -> Plan:
    duration, count = options["duration"], options["count"]
    key = options["key"] or next((value for name in KEYS if (value := os.environ.get(name))), "")
    return Plan(
        url=url,
        protocol=options["protocol"],
        key=key,
        model=options["model"],
        size=options["size"],
        max_tokens=options["max_tokens"],
        stream=options["stream"],
        connections=options["concurrency"],
        duration=DURATION if duration is None and count is None else duration,
        count=count,
        rate=options["rate"],
        fresh=options["new_connections"],
        timeout=options["timeout"],
        grace=options["timeout"] + 1,  # so that a request that times out is seen to
        ca=options["ca"] or "",
        verify=not options["insecure"],
    )


class Bar:
    """The progress bar, on a terminal only. Owns the line it is on."""

    def __init__(self, plan: Plan, terminal: Terminal) -> None:
        self._plan = plan
        self._terminal = terminal
        self._shown = False

    def show(self, progress: Progress) -> None:
        if self._terminal.live:
            click.echo("\r\x1b[K" + summary.bar(self._plan, progress, self._terminal.width - 1), nl=False, err=True)
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
