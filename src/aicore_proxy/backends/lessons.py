"""What a deployment said that it does not take: read from its 400, left out of what it is asked from then on.

Clients send new members and beta flags every week, so tables of what a model takes are always late. Only what the
upstream itself does not know is left out, each as a harmless Loss, and never what the answer depends on: the
conversation, tools, the form of the answer. Wordings: SAP AI Core wire facts 3, 4.3, 4.7 and 5, the vendors' own APIs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from aicore_proxy.backends import Prepared
from aicore_proxy.backends.amend import Amending
from aicore_proxy.protocol.envelope import Envelope, decoded
from aicore_proxy.protocol.fault import Fault
from aicore_proxy.protocol.neutral import Json

EACH = "[]"
"""A step into every element of a list."""
REASON = "the deployment refuses it"
LASTS = 3600.0
"""Seconds for which something learned holds."""
LONGEST, DEEPEST = 4096, 16
"""Characters of an error that are read; steps of a path in it."""
MOST, MOST_DEPLOYMENTS = 64, 4096
"""Things remembered of a deployment; deployments."""

T = TypeVar("T")

# Each is the whole of a line: an error that quotes a client's text must not make one up.
_COMPLAINTS = {
    # Anthropic, as `tools.11.custom.defer_loading`; a line for each
    "extra": re.compile(r"([\w.\[\]-]{1,256}): Extra inputs are not permitted\.?"),
    # Bedrock's own check, as `#/inferenceConfig`
    "extraneous": re.compile(
        r"(?:Malformed input request: )?#(/[\w/]*)?: extraneous key \[([\w.-]+)\] is not permitted(?:, please .{1,99})?"
    ),
    "deprecated": re.compile(r"[`'\"]([\w.]+)[`'\"] is (?:deprecated|not supported) for this model\.?"),
    # Azure
    "unrecognized": re.compile(r"Unrecognized request arguments? supplied: ([\w.-]+(?:, [\w.-]+)*)"),
    "unknown": re.compile(r"Unknown parameter: '([^']{1,256})'\.?"),
    "unsupported": re.compile(
        r"Unsupported parameter: '([^']{1,256})' is not supported with this model\.(?: Use '(\w+)' instead\.?)?"
    ),
    "value": re.compile(
        r"Unsupported value: '([^']{1,256})' does not support .{0,200} with this model\."
        r"( Only the default .{1,99})?(?: Supported .{1,300})?"
    ),
    # Google; a line for each
    "google": re.compile(
        r"(?:Invalid JSON payload received\. )?Unknown name \\?\"([^\"\\]{1,256})\\?\"(?: at '([^']{0,256})')?: "
        r"Cannot find field\.?"
    ),
}
_FLAGS = re.compile(r"Unexpected value\(s\) (.{1,1000}?) for the [`'\"]?anthropic[-_]beta")
_A_FLAG = re.compile(r"(?:\w+: )?invalid beta flag\.?", re.IGNORECASE)

_KEPT = """
model messages contents content parts input prompt system systeminstruction role text type name id source data url
tools toolchoice toolconfig functions functioncall functiondeclarations functionresponse toolcalls toolcallid tooluseid
arguments args inputschema parameters description properties items required enum
inlinedata filedata mimetype mediatype fileuri imageurl signature thoughtsignature
cachedcontent previousresponseid conversation stream anthropicversion anthropicbeta
responseformat outputformat format schema jsonschema responseschema responsejsonschema responsemimetype
maxtokens maxcompletiontokens maxoutputtokens
modalities responsemodalities audio dimensions outputdimensionality encodingformat
"""
KEPT = frozenset(_KEPT.split())
"""Names that are never left out, without underscores and in lower case: without them the answer would be another."""


class Lesson(Struct, frozen=True):
    """A member that a deployment does not take. ``path``: keys from the body down; EACH: every element of a list;
    ``<x>``: only where the object's ``type`` is x. ``value``: only with this one, as JSON; empty: with any.
    ``instead``: the name that the deployment knows it by."""

    path: tuple[str, ...]
    value: bytes = b""
    instead: str = ""

    @property
    def field(self) -> str:
        """As it is named to the client."""
        return ".".join(step for step in self.path if step[:1] not in "[<")


class _Complaint(Struct):
    """``steps`` of a path as the upstream writes it; whether only the member's value is refused; the name to use
    instead."""

    steps: list[str]
    of_value: bool = False
    instead: str = ""


class Taught(Struct, frozen=True):
    """What one deployment, by its id, has said that it does not take."""

    deployment: str
    lessons: tuple[Lesson, ...] = ()
    flags: tuple[str, ...] = ()


def members_named(fault: Fault, body: bytes) -> tuple[Lesson, ...]:
    """The members of ``body`` that an upstream's 400 names as not taken; none that the answer depends on."""
    if not (complaints := _named(fault.message)):
        return ()
    envelope = Envelope.parse(body)
    found: dict[Lesson, None] = {}
    for complaint in complaints:
        path, instead = _resolved(envelope, complaint.steps), complaint.instead
        if path is None or (len(path) > 1 if instead else _plain(path[-1]) in KEPT):
            continue
        if complaint.of_value and EACH in path:
            continue
        value = msgspec.json.encode(_at(envelope, path)) if complaint.of_value else b""
        found[Lesson(path, value, instead)] = None
    return tuple(found)


def flags_named(fault: Fault, sent: Sequence[str], proven: frozenset[str]) -> tuple[str, ...]:
    """The beta flags among those ``sent`` that an upstream's 400 refuses. Where it does not say which (Bedrock): all
    but those that the deployment has taken before; all, where it has taken each."""
    if (told := _FLAGS.search(fault.message)) is not None:
        return tuple(flag for flag in sent if flag in re.findall(r"[\w.-]+", told[1]))
    if _A_FLAG.fullmatch(fault.message.strip()) is None:
        return ()
    return tuple(flag for flag in sent if flag not in proven) or tuple(sent)


def amended(prepared: Prepared, lessons: Iterable[Lesson], target: str) -> Prepared:
    """``prepared`` without what ``lessons`` name; the same object where it holds nothing of it."""
    likely = [lesson for lesson in lessons if lesson.path[-1].encode() in prepared.body]
    if not likely:
        return prepared
    amending = Amending(Envelope.parse(prepared.body), target)
    changed = False
    for lesson in likely:
        changed = _applied(lesson, amending) or changed
    if not changed:
        return prepared
    return replace(prepared, body=amending.body(), losses=(*prepared.losses, *amending.losses))


def _applied(lesson: Lesson, amending: Amending) -> bool:
    name, *below = lesson.path
    if name not in amending:
        return False
    if not below:
        raw = amending.raw(name)
        if lesson.value and msgspec.json.encode(msgspec.json.decode(raw)) != lesson.value:
            return False
        amending.drop(name)
        if lesson.instead:
            if lesson.instead not in amending:
                amending.put(lesson.instead, raw)
        elif bytes(raw) != b"null":
            amending.lost(lesson.field, REASON)
        return True
    value: Any = amending.value(name, object)
    edited = _without(value, below, lesson.value)
    if edited is value:
        return False
    amending.lost(lesson.field, REASON)
    if edited == {}:
        amending.drop(name)
    else:
        amending.put(name, edited)
    return True


def _without(node: Json, steps: Sequence[str], value: bytes) -> Json:
    """``node`` without the member at ``steps``: itself where it has none, else a copy of what is on the way."""
    step, *below = steps
    if step == EACH:
        if not isinstance(node, list):
            return node
        edited = [_without(item, below, value) for item in node]
        return edited if any(new is not old for new, old in zip(edited, node, strict=True)) else node
    if not isinstance(node, dict):
        return node
    if step[:1] == "<":
        return _without(node, below, value) if node.get("type") == step[1:-1] else node
    if step not in node:
        return node
    if below:
        inner = _without(node[step], below, value)
        return node if inner is node[step] else {**node, step: inner}
    if value and msgspec.json.encode(node[step]) != value:
        return node
    return {name: held for name, held in node.items() if name != step}


def _named(words: str) -> list[_Complaint]:
    """The members that an error names; none unless it is made of complaints alone."""
    complaints: list[_Complaint] = []
    for line in words[:LONGEST].splitlines():
        found = [(kind, told) for kind, pattern in _COMPLAINTS.items() if (told := pattern.fullmatch(line.strip()))]
        if not found:
            return []
        complaints += _read(*found[0])
    return complaints


def _read(kind: str, told: re.Match[str]) -> list[_Complaint]:
    match kind:
        case "extraneous":
            return [_Complaint(_steps(f"{told[1] or ''}/{told[2]}"))]
        case "unrecognized":
            return [_Complaint(_steps(name.rstrip("."))) for name in told[1].split(", ")]
        case "unsupported":
            return [_Complaint(_steps(told[1]), instead=told[2] or "")]
        case "value":
            return [_Complaint(_steps(told[1]), of_value=told[2] is None)]
        case "google":
            return [_Complaint([*_steps(told[2] or ""), told[1]])]
        case _:
            return [_Complaint(_steps(told[1]))]


def _steps(path: str) -> list[str]:
    return re.findall(r"[^.\[\]/]+", path)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _resolved(envelope: Envelope, steps: Sequence[str]) -> tuple[str, ...] | None:
    """The path that ``steps`` of an error message mean in a body: names of a union's cases stand in between, and Google
    writes members with underscores. None: there is no such member."""
    first = _key(envelope.members, steps[0]) if 0 < len(steps) <= DEEPEST else None
    if first is None or len(steps) == 1:
        return None if first is None else (first,)
    below = _below(decoded(envelope.members[first], first), steps[1:])
    return None if below is None else (first, *below)


def _below(node: Any, steps: Sequence[str]) -> tuple[str, ...] | None:
    step, *further = steps
    if isinstance(node, list):
        if not further or not step.isdecimal() or int(step) >= len(node):
            return None
        below = _below(node[int(step)], further)
        return None if below is None else (EACH, *below)
    key = _key(node, step)
    if not further:
        return None if key is None else (key,)
    if key is not None and (below := _below(node[key], further)) is not None:
        return (key, *below)
    if not isinstance(node, dict) or step.isdecimal() or (below := _below(node, further)) is None:
        return None
    return (f"<{step}>", *below) if node.get("type") == step else below


def _key(node: Any, step: str) -> str | None:
    """The key of an object that ``step`` means."""
    if not isinstance(node, dict):
        return None
    if step in node:
        return step if step[:1] not in "[<" else None
    return next((key for key in node if _plain(key) == _plain(step)), None)


def _at(envelope: Envelope, path: Sequence[str]) -> Json:
    """The value at a path without lists."""
    node: Any = decoded(envelope.members[path[0]], path[0])
    for step in path[1:]:
        if step[:1] != "<":
            node = node[step]
    return node


class _Taste(Struct):
    """What is known of one deployment, until when: seconds of the caller's clock."""

    lessons: dict[Lesson, float] = field(default_factory=dict)
    flags: dict[str, float] = field(default_factory=dict)
    proven: frozenset[str] = frozenset()
    """Flags that it has taken."""


class Lessons:
    """What the deployments have said, by their ids. Lives in one event loop; ``now``: seconds that go forward. What was
    learned holds for an hour: SAP's upstreams change. ``tell``: called with what is news for other workers, which take
    it with :meth:`heard`."""

    def __init__(self) -> None:
        self._tastes: dict[str, _Taste] = {}
        self.tell: Callable[[Taught], None] = lambda _: None

    def refused_flags(self, deployment: str, now: float) -> frozenset[str]:
        """Beta flags that a deployment does not take."""
        taste = self._tastes.get(deployment)
        if taste is None or not taste.flags:
            return frozenset()
        return frozenset(flag for flag, until in taste.flags.items() if until > now)

    def applied(self, deployment: str, prepared: Prepared, target: str, now: float) -> Prepared:
        """``prepared`` without the members that a deployment does not take."""
        taste = self._tastes.get(deployment)
        if taste is None or not taste.lessons:
            return prepared
        return amended(prepared, [lesson for lesson, until in taste.lessons.items() if until > now], target)

    def took(self, deployment: str, flags: tuple[str, ...]) -> None:
        """A deployment answered a request with these beta flags."""
        taste = self._taste(deployment)
        if not taste.proven.issuperset(flags):
            taste.proven |= frozenset(flags[:MOST])

    def learn(self, deployment: str, prepared: Prepared, fault: Fault, now: float) -> tuple[str, ...]:
        """Takes from a 400 what its deployment does not take of ``prepared``. The names of it: if there are any, the
        deployment is worth being asked without."""
        if fault.status not in (400, 422):
            return ()
        flags: tuple[str, ...] = ()
        if prepared.betas:
            taste = self._tastes.get(deployment)
            flags = flags_named(fault, prepared.betas, taste.proven if taste is not None else frozenset())
        try:
            lessons = members_named(fault, prepared.body)
        except Fault:
            return ()  # a body that only shows now that it cannot be read: the upstream's words are better
        if lessons or flags:
            taught = Taught(deployment, lessons, flags)
            self.heard(taught, now)
            self.tell(taught)
        return (*(lesson.field for lesson in lessons), *flags)

    def heard(self, taught: Taught, now: float) -> None:
        """Takes what was learned here or by another worker."""
        taste = self._taste(taught.deployment)
        taste.proven -= frozenset(taught.flags)
        _remember(taste.lessons, taught.lessons, now)
        _remember(taste.flags, taught.flags, now)

    def _taste(self, deployment: str) -> _Taste:
        taste = self._tastes.get(deployment)
        if taste is None:
            while len(self._tastes) >= MOST_DEPLOYMENTS:
                del self._tastes[next(iter(self._tastes))]
            taste = self._tastes[deployment] = _Taste()
        return taste


def _remember(known: dict[T, float], news: Iterable[T], now: float) -> None:
    for item in news:
        known.pop(item, None)
        known[item] = now + LASTS
    while len(known) > MOST:
        del known[next(iter(known))]
