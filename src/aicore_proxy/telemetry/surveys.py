"""What only an operator wants to know of SAP's side: deployments that do not run, and when models retire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from aicore_proxy.sap.ai_api import AiApi
from aicore_proxy.sap.scope import Scope
from aicore_proxy.sap.survey import Survey, survey
from aicore_proxy.sap.token import TokenProvider

FIRST = 15.0
"""Seconds after the start until the first look, at most: what is needed to serve comes first."""


class Surveys:
    """Looks now and then, and owns what was seen last of each subaccount."""

    def __init__(self) -> None:
        self.seen: dict[str, Survey] = {}

    async def watch(
        self, places: Callable[[], Sequence[tuple[AiApi, TokenProvider, Scope]]], interval: Callable[[], float]
    ) -> None:
        """For ever, for a Supervisor. ``interval``: seconds between two looks (± 10 %); 0: none."""
        pause = min(FIRST, interval() or FIRST)
        while True:
            await asyncio.sleep(pause)
            if (every := interval()) > 0:
                await self.look(places())
            pause = (every or FIRST) * (0.9 + 0.2 * random.random())  # noqa: S311 - spreads workers, no secret

    async def look(self, places: Sequence[tuple[AiApi, TokenProvider, Scope]]) -> None:
        """Looks once. What cannot be read keeps what was seen before."""
        found = await asyncio.gather(*(survey(*place) for place in places))
        aliases = {one.alias for one in found}
        self.seen = {alias: one for alias, one in self.seen.items() if alias in aliases} | {
            one.alias: one for one in found if not one.token_problem and not all(group.problem for group in one.groups)
        }
