"""The doctor's report: for people on a terminal, and as JSON for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Struct

from aicore_proxy import __version__
from aicore_proxy.cli.doctor.finding import Finding, Level, Section, counted
from aicore_proxy.cli.terminal import Terminal

FORMAT = 1
"""Of the JSON; raised where something in it changes its meaning. New members may come without."""
MARKS: dict[Level, tuple[str, str, str]] = {
    "ok": ("✓", "ok", "green"),
    "note": ("·", "--", ""),
    "warning": ("!", "!!", "yellow"),
    "failure": ("✗", "XX", "red"),
}
"""Mark, mark in plain characters, colour."""
SERIOUS: tuple[Level, ...] = ("failure", "warning")
NARROW = 60
TITLES = {"machine": "This machine", "names": "Names"}


class Row(Struct, frozen=True):
    """One line of the report: findings that say the same of the same thing."""

    level: Level
    subject: str
    words: str
    advice: tuple[str, ...] = ()


def rows(findings: Sequence[Finding]) -> list[Row]:
    """Neighbours about one deployment in one line; of several with the same advice, only the last has it. Where all
    deployments fail alike, the line that says so has the advice."""
    alike = any(finding.check == "model_calls" for finding in findings)
    lines = [_row(list(same), mute=alike) for _, same in groupby(findings, key=_likeness)]
    following = [*(line.advice for line in lines[1:]), ()]
    return [
        msgspec.structs.replace(line, advice=()) if line.advice == after else line
        for line, after in zip(lines, following, strict=True)
    ]


def _likeness(finding: Finding) -> tuple[object, ...]:
    if "deployment" not in finding.data or finding.check != "model_call":
        return (id(finding),)
    said = "" if finding.level == "ok" else finding.words.partition(": ")[2]
    return finding.check, finding.subject, finding.data["deployment"], finding.level, said


def _row(findings: Sequence[Finding], *, mute: bool) -> Row:
    first = findings[0]
    words = first.words
    steps = () if mute and first.check == "model_call" else first.advice
    if first.check == "model_call" and "deployment" in first.data:
        where = first.data["deployment"]
        if first.level == "ok":
            words = f"{', '.join(finding.words for finding in findings)} ({where})"
        else:
            asked = ", ".join(str(finding.data["protocol"]) for finding in findings)
            words = f"{asked}: {first.words.partition(': ')[2]} ({where})"
    return Row(first.level, first.subject, words, steps)


def printed(section: Section, terminal: Terminal) -> Iterable[str]:
    """A section's lines."""
    title = TITLES.get(section.kind) or f"Subaccount {section.name}"
    yield terminal.coloured(terminal.shown(title), bold=True)
    lines = rows(section.findings)
    names = [len(terminal.shown(line.subject)) for line in lines]
    column = min(max(names, default=0), 34 if terminal.width >= 100 else 26)
    for line in lines:
        yield from _lines(line, column, terminal)
    yield ""


def _lines(line: Row, column: int, terminal: Terminal) -> Iterable[str]:
    mark, plain, colour = MARKS[line.level]
    shown = mark if terminal.unicode else plain
    lead = " " * (len(shown) + 3)
    subject = terminal.shown(line.subject)
    if terminal.width < NARROW or len(subject) > column:
        head, indent = [f"  {shown} {subject}"], lead + "  "
        head += terminal.wrapped(line.words, indent, indent)
    else:
        indent = lead + " " * (column + 2)
        head = list(terminal.wrapped(line.words, f"  {shown} {subject:<{column}}  ", indent))
    head[0] = head[0].replace(shown, terminal.coloured(shown, colour, bold=True, dim=line.level == "note"), 1)
    yield from head
    for step in line.advice:
        arrow = "→" if terminal.unicode else ">"
        yield from terminal.wrapped(step, f"{lead}{arrow} ", f"{lead}  ")


def summary(sections: Sequence[Section], seconds: float, terminal: Terminal) -> Iterable[str]:
    """The last lines: the failures once more, since what came first has scrolled away, and the counts."""
    failures = [(s, line) for s in sections for line in rows(_telling(s)) if line.level == "failure"]
    if sum(len(section.findings) for section in sections) > 20:
        for section, line in failures[:10]:
            where = f"{section.name}: " if section.kind == "subaccount" else ""
            mark = MARKS["failure"][0 if terminal.unicode else 1]
            head, *more = terminal.wrapped(f"{where}{line.subject}: {line.words}", f"{mark} ", "   "[: len(mark) + 1])
            yield head.replace(mark, terminal.coloured(mark, MARKS["failure"][2], bold=True), 1)
            yield from more
        if len(failures) > 10:
            yield f"  and {len(failures) - 10} more, above"
    counts = {level: sum(section.count(level) for section in sections) for level in MARKS}
    calls = sum(finding.check == "model_call" for section in sections for finding in section.findings)
    rest = f"{counts['ok']} fine, in {seconds:.1f} s" + (f", with {counted(calls, 'model call')}." if calls else ".")
    serious = [counted(counts[level], level) for level in SERIOUS if counts[level]]
    worst: Level = next((level for level in SERIOUS if counts[level]), "ok")
    for text in terminal.wrapped(", ".join([*serious, rest]) if serious else f"All well: {rest}", "", ""):
        yield terminal.coloured(text, MARKS[worst][2], bold=True)


def _telling(section: Section) -> Sequence[Finding]:
    """Without what one line says of all deployments."""
    alike = any(finding.check == "model_calls" for finding in section.findings)
    return [finding for finding in section.findings if not alike or finding.check != "model_call"]


def document(sections: Sequence[Section], seconds: float, *, complete: bool) -> dict[str, Any]:
    """The report as JSON; docs/doctor.md describes it. ``complete``: all was looked at within the deadline."""
    counts = {level: sum(section.count(level) for section in sections) for level in MARKS}
    return {
        "format": FORMAT,
        "version": __version__,
        "healthy": not counts["failure"],
        "complete": complete,
        "counts": counts,
        "seconds": round(seconds, 3),
        "sections": [
            {"kind": section.kind, "name": section.name, "findings": msgspec.to_builtins(section.findings)}
            for section in sections
        ],
    }
