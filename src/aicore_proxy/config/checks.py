"""What the types of the settings cannot say: ranges, patterns, names that stand twice, keys that are none."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import TypeAlias

import msgspec

from aicore_proxy.config.document import shown
from aicore_proxy.config.settings import (
    FALLBACK_REASONS,
    PREFIX,
    STRATEGIES,
    KeySettings,
    Settings,
    SubaccountSettings,
    is_loopback,
    moment,
)
from aicore_proxy.config.yaml_values import Place
from aicore_proxy.gateway.keys import client_key

Problem: TypeAlias = tuple[Place, str]
"""Where, and words that follow the place: what is wrong, and what would be right."""

MAY_BE_NONE = ("recovery_wait", "retry_share", "retry_always", "drain_delay", "drain_timeout", "survey_interval")
RANGES = {
    "port": (0, 65535),
    "simulator_port": (0, 65535),
    "body_limit": (1024, 2**40),
    "head_limit": (1024, 2**24),
    "max_attempts": (1, 1000),
    "max_requests": (1, 10**6),
    "body_memory": (1024, 2**40),
    "breaker_failures": (1, 10**9),
    "adaptive_start": (1, 10**9),
    "workers": (1, 256),
}
CHOICES = {
    "log_level": ("debug", "info", "warning", "error"),
    "log_format": ("auto", "json", "text"),
    "strategy": STRATEGIES,
}
MOST = 10**9
"""Of other whole numbers."""
SHORTEST_KEY = 8
LONGEST_KEY = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,63}")
_KEY = re.compile(r"[!-~]+")


def unfit(settings: Settings) -> Iterator[Problem]:
    """Every problem of the settings as a whole."""
    yield from _scalars(settings)
    yield from _addresses(settings)
    yield from _subaccounts(settings.subaccounts)
    yield from _keys(settings.keys)
    yield from _patterns(("models",), settings.models.include, settings.models.exclude)
    yield from _aliases(settings.aliases)
    yield from _routing(settings)


def _scalars(settings: Settings) -> Iterator[Problem]:
    for name, (least, most) in RANGES.items():
        if not least <= getattr(settings, name) <= most:
            yield (name,), f"must be between {least} and {most}"
    for name, choices in CHOICES.items():
        if getattr(settings, name) not in choices:
            yield (name,), f"must be one of {', '.join(choices)}"
    if settings.record_until and moment(settings.record_until) is None:
        yield ("record_until",), "must be a time like 2027-03-01T12:00:00Z"
    if not 0 < settings.breaker_error_share <= 1:
        yield ("breaker_error_share",), "must be more than 0, at most 1"
    for field in msgspec.structs.fields(Settings):
        if field.type is int and field.name not in RANGES and not 0 <= getattr(settings, field.name) <= MOST:
            yield (field.name,), f"must be between 0 and {MOST}"
        if field.type is not float:
            continue
        value, none = getattr(settings, field.name), field.name in MAY_BE_NONE
        if not (0 if none else 1e-9) <= value < 1e9:
            yield (field.name,), f"must be {'at least' if none else 'more than'} 0 and less than 1e9"


def _addresses(settings: Settings) -> Iterator[Problem]:
    if not (is_loopback(settings.host) or settings.api_key or settings.keys):
        words = f"lets others in: set {PREFIX}API_KEY or keys in the configuration file, or listen on 127.0.0.1"
        yield ("host",), words
    # On this machine only, a key that is easily guessed keeps nobody out who is not in already
    shortest = 1 if is_loopback(settings.host) else SHORTEST_KEY
    if settings.api_key and (words := _unfit_key(settings.api_key, shortest)):
        yield ("api_key",), words
    if settings.metrics_key and (words := _unfit_key(settings.metrics_key, shortest)):
        yield ("metrics_key",), words
    if settings.tls_key and not settings.tls_certificate:
        yield ("tls_key",), "needs tls_certificate beside it"
    if settings.service_keys and settings.subaccounts:
        yield ("service_keys",), "and subaccounts: one of them, not both"
    for number, network in enumerate(settings.trusted_proxies):
        if not _is_network(network):
            yield ("trusted_proxies", number), "must be an IP address, or a network like 10.0.0.0/8"


def _subaccounts(subaccounts: Iterable[SubaccountSettings]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for number, one in enumerate(subaccounts):
        place: Place = ("subaccounts", number)
        if not _NAME.fullmatch(one.name):
            words = "must be 1 to 64 letters, digits, spaces or any of . _ @ -, with a letter or digit in front"
            yield (*place, "name"), words
        if first.setdefault(one.name, number) != number:
            yield (*place, "name"), f"stands twice: subaccounts[{first[one.name]}] is called '{shown(one.name)}' too"
        if one.service_key is None:
            yield place, "needs a service_key or a service_key_file"
        yield from _patterns(place, one.include, one.exclude)
        for name, ids in one.deployments.items():
            if not name.strip() or not ids or not all(each.strip() for each in ids):
                yield (*place, "deployments", name), "must be a name with the id of at least one deployment"


def _keys(keys: Iterable[KeySettings]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    same: dict[bytes, int] = {}
    for number, key in enumerate(keys):
        place: Place = ("keys", number)
        if not key.name.strip() or not key.name.isprintable() or len(key.name) > 64:
            yield (*place, "name"), "must be 1 to 64 characters"
        if first.setdefault(key.name, number) != number:
            yield (*place, "name"), f"stands twice: keys[{first[key.name]}] is called '{shown(key.name)}' too"
        given = key.key or key.hash
        if bool(key.key) == bool(key.hash):
            yield place, "needs one of key, key_file and hash"
        elif key.hash and not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", key.hash):
            yield (*place, "hash"), "must be sha256: and 64 hexadecimal digits, the SHA-256 of the key"
        elif key.key and (words := _unfit_key(key.key)):
            yield (*place, "key_file" if key.key_file else "key"), words
        elif (twin := same.setdefault(client_key(key.name, given).digest, number)) != number:
            yield place, f"is the same key as keys[{twin}]"
        yield from _patterns((*place, "models"), key.models)


def _unfit_key(key: str, shortest: int = SHORTEST_KEY) -> str:
    """What is wrong with a plain key, nothing where it is one."""
    if key.lower().startswith("sha256:"):
        return "is a hash: that goes into hash"
    if not shortest <= len(key) <= LONGEST_KEY:
        return f"must be a key of {shortest} to {LONGEST_KEY} characters (`openssl rand -hex 24` makes a good one)"
    return "" if _KEY.fullmatch(key) else "must be a key of ASCII letters, digits and signs, without spaces"


def _aliases(aliases: dict[str, str]) -> Iterator[Problem]:
    own = {alias.strip().lower(): alias for alias in aliases}
    for alias, model in aliases.items():
        wanted = model.strip().lower()
        if not alias.strip() or not wanted or not alias.isprintable():
            yield ("aliases", alias), "must be a name for a model"
        elif own[alias.strip().lower()] != alias:
            yield ("aliases", alias), "stands twice, in another case"
        elif wanted == alias.strip().lower():
            yield ("aliases", alias), "leads to itself: name the model as SAP does"
        elif wanted in own:
            yield ("aliases", alias), f"leads to the alias '{shown(own[wanted])}': name the model itself"


def _routing(settings: Settings) -> Iterator[Problem]:
    routing = settings.routing
    for pattern, strategy in routing.strategies.items():
        if strategy not in STRATEGIES:
            yield ("routing", "strategies", pattern), f"must be one of {', '.join(STRATEGIES)}"
        if not _is_pattern(pattern):
            yield ("routing", "strategies", pattern), "is not a regular expression after re:"
    for pattern, seconds in routing.first_byte_timeouts.items():
        if not 0 < seconds <= 86400:
            yield ("routing", "first_byte_timeouts", pattern), "must be more than 0 and at most 86400"
        if not _is_pattern(pattern):
            yield ("routing", "first_byte_timeouts", pattern), "is not a regular expression after re:"
    for pattern in routing.adaptive_limits:
        if not _is_pattern(pattern):
            yield ("routing", "adaptive_limits", pattern), "is not a regular expression after re:"
    for target, weight in routing.weights.items():
        if not 0 <= weight < 1e6:
            yield ("routing", "weights", target), "must be at least 0 and less than 1e6"
    for target, limit in routing.limits.items():
        if not 1 <= limit <= 10**9:
            yield ("routing", "limits", target), "must be at least 1"
    for target, tier in routing.tiers.items():
        if not -1000 <= tier <= 1000:
            yield ("routing", "tiers", target), "must be between -1000 and 1000"
    for number, reason in enumerate(routing.fallback_on):
        if reason not in FALLBACK_REASONS:
            yield ("routing", "fallback_on", number), f"must be one of {', '.join(FALLBACK_REASONS)}"


def _patterns(place: Place, *several: tuple[str, ...]) -> Iterator[Problem]:
    """``several``: include and exclude, or patterns that stand at the place itself."""
    kinds: tuple[Place, ...] = (("include",), ("exclude",)) if len(several) == 2 else ((),)
    for kind, patterns in zip(kinds, several, strict=True):
        for number, pattern in enumerate(patterns):
            if not pattern.strip():
                yield (*place, *kind, number), "must be a pattern like claude-*"
            elif not _is_pattern(pattern):
                yield (*place, *kind, number), "is not a regular expression after re:"


def _is_pattern(pattern: str) -> bool:
    if not pattern.startswith("re:"):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Python may come to mean by [[ one day
            re.compile(pattern[3:])
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True
