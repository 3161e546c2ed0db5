"""Which of the served models a tool is told to use, and for what."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from aicore_proxy.backends.served import is_embedding
from aicore_proxy.landscape import aliases_of
from aicore_proxy.protocol.profiles import Profile, profile_of

SMALL = re.compile(r"(?<![a-z])(?:haiku|mini|nano|flash|lite|small)(?![a-z])")
"""In the names of small, fast models."""
CONTEXTS = {"claude": 200_000, "gemini": 1_000_000}
LARGE_GPT, GPT_5, OLD_GPT = 1_000_000, 272_000, 128_000
"""Tokens of input that every model of a family takes at least."""


class Choice(Struct, frozen=True):
    """Names as the proxy lists them; all of them are served. ``main`` does the work; ``small`` makes titles and such;
    ``opus``, ``sonnet`` and ``haiku`` stand for Claude Code's aliases; ``all``: each model once."""

    main: str
    small: str
    opus: str
    sonnet: str
    haiku: str
    all: tuple[str, ...]


def choice_of(listed: Sequence[str], main: str | None = None, small: str | None = None) -> Choice:
    """Chosen from ``GET /v1/models``; ``main``, ``small``: what the person asked for. Raises LookupError, its words
    for the person."""
    usable = _once(listed)
    if not usable:
        raise LookupError("The proxy serves no model that could answer: see its log, or aicore-proxy doctor.")
    for asked in (main, small):
        if asked is not None and asked not in listed:
            raise LookupError(f"The proxy does not serve '{asked}'. It serves: {', '.join(usable)}.")
    opus, sonnet, haiku = (_newest(usable, size) for size in ("opus", "sonnet", "haiku"))
    best = main or sonnet or opus or max(usable, key=_rank)
    little = small or haiku or max(usable, key=_smallness)
    opus, sonnet = opus or sonnet or best, sonnet or opus or best
    return Choice(best, little, opus, sonnet, small or haiku or little, tuple(usable))


def _once(listed: Sequence[str]) -> list[str]:
    """Models that answer, each by the first of its names."""
    double = {name for name in listed if any(alias in listed for alias in aliases_of(name))}
    return [name for name in listed if name not in double and not is_embedding(name)]


def _newest(names: Sequence[str], size: str) -> str | None:
    fitting = [name for name in names if profile(name).family == "claude" and profile(name).size == size]
    return max(fitting, key=lambda name: profile(name).version, default=None)


def profile(name: str) -> Profile:
    """A model's profile by SAP's or the vendor's name."""
    if match := re.match(r"claude-([a-z]+)-(\d+)(?:-(\d{1,2}))?(?![\d.])", name):
        size, major, minor = match.groups()
        return profile_of(f"anthropic--claude-{major}{f'.{minor}' if minor else ''}-{size}")
    return profile_of(name)


def _rank(name: str) -> tuple[bool, int, tuple[int, ...], bool]:
    """Large before small, families that agents know well first, then the newest, and plain before special ones."""
    of = profile(name)
    families = ("gemini", "gpt", "claude")
    place = families.index(of.family) if of.family in families else -1
    o_series = of.family == "gpt" and not name.startswith("gpt")
    return not SMALL.search(name), place, (0, *of.version) if o_series else of.version, not of.size


def _smallness(name: str) -> tuple[bool, int, tuple[int, ...]]:
    of = profile(name)
    order = ("gemini", "gpt")
    return bool(SMALL.search(name)), order.index(of.family) if of.family in order else -1, of.version


def context_of(name: str) -> int:
    """Tokens of input that a model takes at least: what a tool may fill before it compacts."""
    of = profile(name)
    if of.family != "gpt":
        return CONTEXTS.get(of.family, OLD_GPT)
    if of.version[:2] == (4, 1):
        return LARGE_GPT
    if not name.startswith("gpt"):
        return CONTEXTS["claude"]  # o1, o3, o4-mini: 200,000
    return GPT_5 if of.version >= (5,) else OLD_GPT


def output_of(name: str) -> int:
    """Tokens of one answer that a model makes at most, as far as tools should ask for them."""
    return min(profile(name).max_output, 32_000)
