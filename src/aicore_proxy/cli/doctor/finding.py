"""What the doctor found: findings in sections, as values that the terminal and ``--json`` both show."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from msgspec import Struct, field

Level = Literal["ok", "note", "warning", "failure"]


class Finding(Struct, frozen=True):
    """One thing that was looked at. ``check``: what kind of thing, stable for scripts; ``subject``: which one;
    ``words``: what is; ``advice``: what to do, a step each; ``data``: the same in numbers and names. No secrets."""

    check: str
    level: Level
    subject: str
    words: str
    advice: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)


class Section:
    """Findings about one thing, in the order in which they are made. Owned by the task that looks at it.

    ``kind``: ``machine``, ``subaccount`` or ``names``; ``told`` hears each finding."""

    def __init__(self, kind: str, name: str, told: Callable[[Finding], None] = lambda _: None) -> None:
        self.kind = kind
        self.name = name
        self.findings: list[Finding] = []
        self._told = told

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._told(finding)

    def ok(self, check: str, subject: str, words: str, **data: Any) -> None:
        self.add(Finding(check, "ok", subject, words, data=data))

    def note(self, check: str, subject: str, words: str, advice: Iterable[str] = (), **data: Any) -> None:
        self.add(Finding(check, "note", subject, words, tuple(advice), data))

    def warn(self, check: str, subject: str, words: str, advice: Iterable[str] = (), **data: Any) -> None:
        self.add(Finding(check, "warning", subject, words, tuple(advice), data))

    def fail(self, check: str, subject: str, words: str, advice: Iterable[str] = (), **data: Any) -> None:
        self.add(Finding(check, "failure", subject, words, tuple(advice), data))

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings)


def counted(count: int, what: str) -> str:
    """``1 scope``, ``2 scopes``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
