"""The command ``doctor``."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import click

from aicore_proxy.cli.demo import simulated
from aicore_proxy.cli.doctor.examination import Wanted, abroad, at_home
from aicore_proxy.cli.doctor.finding import Finding, Section
from aicore_proxy.cli.doctor.report import document, printed, summary
from aicore_proxy.cli.looking import leave, look
from aicore_proxy.cli.options import config_option, json_option, seconds_option
from aicore_proxy.cli.terminal import Terminal, out

INTERRUPTED = 130
CLEAR = "\r\x1b[K"
"""Back to the beginning of the line, which is empty then."""


@click.command()
@config_option
@click.option("--model", "models", multiple=True, help="Call only models that meet this pattern (several times).")
@click.option("--no-calls", is_flag=True, help="Call no model.")
@json_option()
@click.option("--demo", is_flag=True, help="Look at the embedded simulator instead of an account.")
@seconds_option("--timeout", 20.0, "Seconds that one step may take.")
@seconds_option("--deadline", 120.0, "Seconds that all of it may take.")
def doctor(
    config: Path | None,
    models: tuple[str, ...],
    no_calls: bool,
    as_json: bool,
    demo: bool,
    timeout: float,
    deadline: float,
) -> None:
    """Find out what does not work, and what to do about it.

    Looks at this machine, then, for every service key, at the way to SAP, the token, resource groups, deployments and
    retirement dates, and asks every deployment for a few words in each protocol. Such a call costs some 30 tokens;
    --no-calls leaves them out. No secret is printed. Exit code 0: nothing failed (there may be warnings); 1: something
    did.
    """
    try:
        with simulated(0) if demo else nullcontext(("", None)) as (_, keys):
            code = _examine(Wanted(config, keys, timeout, deadline, not no_calls, models), as_json=as_json)
    except KeyboardInterrupt:
        click.echo(f"{CLEAR if sys.stderr.isatty() else ''}Interrupted.", err=True)
        leave(INTERRUPTED)
    sys.exit(code)


def _examine(wanted: Wanted, *, as_json: bool) -> int:
    """Looks, prints, and gives the exit code."""
    began = time.monotonic()
    logging.getLogger().addHandler(logging.NullHandler())  # what would be logged stands in the report
    screen = Screen(out(), quiet=as_json)
    here = Section("machine", "")
    prepared = at_home(here, wanted)
    screen.section(here)
    sections, complete, ended = [here], True, True
    if prepared is not None:
        (more, complete), ended = look(abroad(prepared, wanted, screen.section, screen.progress))
        sections += more
    seconds = time.monotonic() - began
    if as_json:
        click.echo(json.dumps(document(sections, seconds, complete=complete), indent=2))
    else:
        for line in summary(sections, seconds, screen.terminal):
            click.echo(line, color=screen.terminal.colours)
    code = int(any(section.count("failure") for section in sections))
    if not ended:
        leave(code)
    return code


class Screen:
    """Prints sections as they come, and meanwhile one line that is written over. Owns that line."""

    def __init__(self, terminal: Terminal, *, quiet: bool) -> None:
        self.terminal = terminal
        self._quiet = quiet
        self._live = not quiet and terminal.live and sys.stderr.isatty()
        self._made = 0

    def section(self, section: Section) -> None:
        self.clear()
        if not self._quiet:
            for line in printed(section, self.terminal):
                click.echo(line, color=self.terminal.colours)

    def progress(self, finding: Finding) -> None:
        """That something goes on."""
        self._made += 1
        if self._live:
            said = f"{self._made} looked at: {finding.subject}"
            shown = self.terminal.shown(said)[: self.terminal.width - 1]
            click.echo(f"{CLEAR}{shown}", nl=False, err=True, color=True)

    def clear(self) -> None:
        if self._live and self._made:
            click.echo(CLEAR, nl=False, err=True, color=True)
