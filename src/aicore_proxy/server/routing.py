"""Builds the router from the settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar

import msgspec

from aicore_proxy.backends.lessons import Lessons, Taught
from aicore_proxy.config.settings import Settings
from aicore_proxy.landscape import aliases_of, meets
from aicore_proxy.protocol.profiles import profile_of
from aicore_proxy.routing.affinity import Affinity
from aicore_proxy.routing.breaker import Limits
from aicore_proxy.routing.budget import Allowance
from aicore_proxy.routing.concurrency import Learning
from aicore_proxy.routing.health import Change, Health
from aicore_proxy.routing.router import Router
from aicore_proxy.routing.strategies import LeastOutstanding, RoundRobin, Sticky, Strategy, Tiered, Weighted
from aicore_proxy.server.peers import Peers

T = TypeVar("T")

HEALTH = "health"
LESSONS = "lessons"
BEGUN = "health_wanted"
"""Topics between workers: a Change; a Taught; a worker that has begun asks for all that holds of health."""
CACHING = frozenset({"claude", "gpt", "gemini"})
"""Families whose providers cache prompts."""


def caches(model: str) -> bool:
    """Whether a model, by SAP's name, has a prompt cache that affinity can use."""
    return profile_of(model).family in CACHING


def share(health: Health, lessons: Lessons, peers: Peers) -> None:
    """Tells the other workers what this one learns of deployments, and takes what they tell; nobody waits for it."""

    def told(value: Any) -> None:
        health.heard(msgspec.convert(value, Change), time.monotonic())

    def taught(value: Any) -> None:
        lessons.heard(msgspec.convert(value, Taught), time.monotonic())

    health.tell = lambda change: peers.publish(HEALTH, change)
    lessons.tell = lambda lesson: peers.publish(LESSONS, lesson)
    peers.subscribe(HEALTH, told)
    peers.subscribe(LESSONS, taught)
    peers.subscribe(BEGUN, lambda _: health.tell_all(time.monotonic()))
    peers.publish(BEGUN, None)


def of_model(values: Mapping[str, T], model: str) -> T | None:
    """The value of the first pattern that meets a model, by SAP's name or one that follows from it."""
    names = {model.lower(), *aliases_of(model)}
    return next((value for pattern, value in values.items() if any(meets(name, pattern) for name in names)), None)


def first_byte_of(settings: Settings) -> Callable[[str], float | None]:
    """Seconds until the first byte of a model's answers, where the operator has set some for it."""
    return lru_cache(1024)(partial(of_model, settings.routing.first_byte_timeouts))


def share_of(limit: int, settings: Settings) -> int:
    """One worker's part of a limit that holds for all of them: they share no count. No worker is without."""
    return max(1, limit // settings.workers)


def learning_of(settings: Settings) -> Callable[[str], Learning | None]:
    """How the limits of a model's deployments are learned, where they are."""
    learning = Learning(start=settings.adaptive_start)

    @lru_cache(1024)
    def of(model: str) -> Learning | None:
        chosen = of_model(settings.routing.adaptive_limits, model)
        return learning if (settings.adaptive_limit if chosen is None else chosen) else None

    return of


def build_router(settings: Settings, before: Router | None = None) -> tuple[Router, Callable[[str], bool]]:
    """The Router, and whether a model's conversations stay where their prefix is cached. ``before``: the one that it
    replaces, whose memory it takes over."""
    limits = Limits(
        consecutive=settings.breaker_failures,
        error_share=settings.breaker_error_share,
        open_time=settings.breaker_open_time,
        longest=settings.breaker_longest,
    )
    routing = settings.routing
    health = before.health if before is not None else Health()
    health.become(
        limits,
        {identity: share_of(limit, settings) for identity, limit in routing.limits.items()},
        share_of(settings.deployment_limit, settings) if settings.deployment_limit else None,
        remembers=settings.breakers,
        learns=learning_of(settings),
    )
    affinity = before.affinity if before is not None else Affinity()
    least = LeastOutstanding(health)
    sticky = Sticky(affinity, health, least)
    named: dict[str, Strategy] = {
        "affinity": sticky,
        "round_robin": RoundRobin(),
        "least_outstanding": least,
        "weighted": Weighted(routing.weights),
    }

    @lru_cache(1024)
    def name_of(model: str) -> str:
        chosen = of_model(routing.strategies, model) or settings.strategy
        return ("affinity" if caches(model) else "least_outstanding") if chosen == "auto" else chosen

    tiered = {name: Tiered(routing.tiers, strategy) for name, strategy in named.items()} if routing.tiers else named
    router = Router(
        lambda model: tiered[name_of(model)],
        health,
        affinity,
        max_attempts=settings.max_attempts,
        allowance=Allowance(settings.retry_share, settings.retry_always),
    )
    return router, lambda model: name_of(model) == "affinity"
