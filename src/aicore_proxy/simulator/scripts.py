"""Scripts: what a deployment is told to answer or to break, from the control endpoint or from the prompt.

The vocabulary is described in docs/simulator.md.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, Literal

import msgspec
from msgspec import Struct

PROMPT_LINE = re.compile(r"(?m)^[ \t]*simulate:[ \t]*(\{.*\})[ \t\r]*$")
REMEMBERED = 20_000

Endpoint = Literal["inference", "token", "ai_api"]
Layer = Literal["edge", "proxy", "provider"]
Garbage = Literal["json", "html", "unknown", "long", "nul", "foreign", "after", "unended", "unmarked"]
Framing = Literal["crlf", "cr", "no_space", "comments", "events", "bytes", "blank"]


class ScriptError(ValueError):
    """What is wrong with a script."""


class CallSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call to make. ``arguments``: an object, or text that is sent as it is."""

    name: str
    arguments: dict[str, Any] | str = msgspec.field(default_factory=dict)
    id: str = ""


class Script(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One script. Times in seconds, counts in content events, sizes in bytes."""

    text: str | None = None
    think: str | None = None
    calls: list[CallSpec] | Literal["auto"] | None = None
    events: int | None = None
    rate: float | None = None
    event_bytes: int | None = None
    finish: Literal["stop", "length", "content_filter", "refusal"] | None = None
    usage: bool | None = None
    framing: Framing | None = None
    delay: float | None = None
    stall: float | None = None
    hang: bool | None = None
    cut_after: int | None = None
    cut_bytes: int | None = None
    status: int | None = None
    retry_after: float | str | None = None
    code: str | None = None
    message: str | None = None
    layer: Layer | None = None
    refuse: Literal["context_length", "content_filter"] | None = None
    unknown: list[str] | None = None
    error_after: int | None = None
    garbage: Garbage | bool | None = None
    empty: bool | None = None
    reset: bool | None = None
    silent_close: bool | None = None
    early: bool | None = None
    headers: dict[str, str | None] | None = None
    body: Any = None
    body_bytes: int | None = None
    content_type: str | None = None
    raw: str | None = None
    concurrency: int | None = None
    every: int | None = None
    share: float | None = None
    at: list[str] | str | None = None
    times: int | None = None


ANSWER_KEYS = frozenset({"text", "think", "calls", "events", "rate", "event_bytes", "finish", "usage", "framing"})
SELECTORS = frozenset({"at", "times", "every", "share", "concurrency"})
_NONE = Script()


def parse(value: Any) -> Script:
    """Raises ScriptError with a sentence that says what is wrong."""
    try:
        script = msgspec.convert(value, Script)
    except msgspec.ValidationError as error:
        raise ScriptError(f"The script is not valid: {error}") from None
    for name in (
        "events",
        "rate",
        "event_bytes",
        "delay",
        "stall",
        "cut_after",
        "cut_bytes",
        "error_after",
        "body_bytes",
    ):
        number = getattr(script, name)
        if number is not None and number < 0:
            raise ScriptError(f"The script is not valid: `{name}` must not be negative, it is {number}.")
    if script.status is not None and not 100 <= script.status <= 999:
        raise ScriptError(f"The script is not valid: `status` must be an HTTP status, it is {script.status}.")
    if script.rate == 0:
        raise ScriptError("The script is not valid: `rate` must be above 0; use `stall` or `hang` for silence.")
    for name in ("times", "every", "concurrency"):
        number = getattr(script, name)
        if number is not None and number < 1:
            raise ScriptError(f"The script is not valid: `{name}` must be at least 1, it is {number}.")
    if script.share is not None and not 0 <= script.share <= 1:
        raise ScriptError(f"The script is not valid: `share` must be between 0 and 1, it is {script.share}.")
    return script


def from_prompt(text: str) -> Script | None:
    """The script of the last ``simulate: {JSON}`` line, if there is one. Raises ScriptError."""
    if "simulate:" not in text:
        return None
    lines = PROMPT_LINE.findall(text)
    if not lines:
        return None
    try:
        return parse(msgspec.json.decode(lines[-1]))
    except msgspec.DecodeError as error:
        raise ScriptError(f"The line `simulate: …` does not hold valid JSON: {error}") from None


def _given(script: Script) -> set[str]:
    return {name for name in script.__struct_fields__ if getattr(script, name) is not None}


def _without_faults(script: Script) -> Script:
    return Script(**{name: getattr(script, name) for name in ANSWER_KEYS})


class Setting(Struct, frozen=True):
    """A script as set through the control endpoint. ``at`` None: everywhere."""

    at: tuple[str, ...] | None
    endpoint: Endpoint
    script: Script


class Place(Struct, frozen=True):
    """Where a request has arrived: the names that ``at`` may use, and the inference requests open there."""

    names: tuple[str, ...]
    open: int = 0


class ScriptBook:
    """The scripts that are set, and how often each has been used. Owned by the Simulator."""

    def __init__(self, random: Random) -> None:
        self._settings: list[Setting] = []
        self._used: OrderedDict[tuple[Script | str, str], int] = OrderedDict()
        self._random = random

    def __len__(self) -> int:
        return len(self._settings)

    @property
    def settings(self) -> Sequence[Setting]:
        return self._settings

    def set(self, setting: Setting) -> None:
        """Sets a script; one for the same place is replaced. The one set last comes first."""
        self._settings = [
            other for other in self._settings if (other.at, other.endpoint) != (setting.at, setting.endpoint)
        ]
        self._settings.append(setting)

    def clear(self) -> None:
        self._settings = []
        self._used.clear()

    def of_place(self, place: Place, endpoint: Endpoint = "inference") -> Script | None:
        """The raw script that holds at a place, before counting."""
        for setting in reversed(self._settings):
            if setting.endpoint == endpoint and (setting.at is None or _meets(setting.at, place.names)):
                return setting.script
        return None

    def decide(self, place: Place, prompt: str, endpoint: Endpoint = "inference") -> Script:
        """The script of one request, with everything that does not hold here and now taken out. A script in the
        prompt comes before that of the place, key by key. Counts. Raises ScriptError."""
        here = self.of_place(place, endpoint)
        spoken = from_prompt(prompt)
        scripts = [self._effective(script, place, prompt) for script in (here, spoken) if script is not None]
        if not scripts:
            return _NONE
        merged: dict[str, Any] = {}
        for script in scripts:
            merged |= {name: getattr(script, name) for name in _given(script)}
        return Script(**merged)

    def _effective(self, script: Script, place: Place, prompt: str) -> Script:
        """With faults, ``at`` and ``times`` govern the faults and the answer keys hold everywhere; without, all."""
        otherwise = _without_faults(script) if _given(script) - ANSWER_KEYS - SELECTORS else _NONE
        if script.at is not None and not _meets([script.at] if isinstance(script.at, str) else script.at, place.names):
            return otherwise
        if script.concurrency is not None and place.open <= script.concurrency:
            return otherwise
        if script.share is not None and self._random.random() >= script.share:
            return otherwise
        key = msgspec.json.encode(script).decode()
        if script.every is not None and self._count(("every " + key, "")) % script.every:
            return otherwise
        if script.times is not None and self._count((key, prompt)) > script.times:
            return otherwise
        return script

    def _count(self, key: tuple[str, str]) -> int:
        self._used[key] = count = self._used.pop(key, 0) + 1
        while len(self._used) > REMEMBERED:
            self._used.popitem(last=False)
        return count


def _meets(wanted: Iterable[str], names: Sequence[str]) -> bool:
    return any(name in names for name in wanted)


def setting_from(value: Any) -> Setting:
    """Reads the body of ``POST /_simulator/scripts``. Raises ScriptError."""
    if not isinstance(value, Mapping):
        raise ScriptError('The body must be an object like {"at": ["demo-eu"], "script": {"status": 429}}.')
    if unknown := set(value) - {"at", "endpoint", "script"}:
        raise ScriptError(f"Unknown keys beside `script`: {', '.join(sorted(unknown))}.")
    if "script" not in value:
        raise ScriptError("`script` is missing.")
    at = value.get("at")
    if isinstance(at, str):
        at = [at]
    if at is not None and not (isinstance(at, list) and all(isinstance(name, str) for name in at)):
        raise ScriptError("`at` must be a list of names of deployments, subaccounts or models.")
    endpoint = value.get("endpoint", "inference")
    if endpoint not in ("inference", "token", "ai_api"):
        raise ScriptError('`endpoint` must be "inference", "token" or "ai_api".')
    return Setting(None if at is None else tuple(at), endpoint, parse(value["script"]))
