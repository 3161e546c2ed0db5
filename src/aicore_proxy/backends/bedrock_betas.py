"""Which ``anthropic-beta`` flags SAP's Bedrock deployments take, as data.

Source: SAP AI Core wire facts 4.3 (probed live). A rejected flag is a 400 for the whole request that does not name it
(``invalid beta flag``), so only flags known as accepted pass; the others are dropped and named as a harmless Loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from aicore_proxy.protocol.profiles import Profile


class Accepted(Struct, frozen=True):
    """The models that take a flag: versions from ``since`` to before ``until``, of ``sizes`` (empty: all)."""

    since: tuple[int, ...] = ()
    until: tuple[int, ...] = (1000,)
    sizes: tuple[str, ...] = ()

    def by(self, profile: Profile) -> bool:
        of_size = not self.sizes or profile.size in self.sizes
        return self.since <= profile.version < self.until and of_size


CONTEXT_MANAGEMENT = "context-management-2025-06-27"
EFFORT = "effort-2025-11-24"
MID_SYSTEM = "mid-conversation-system-2026-04-07"

ACCEPTED: Mapping[str, tuple[Accepted, ...]] = {
    "claude-code-20250219": (Accepted(),),
    "afk-mode-2026-01-31": (Accepted((4, 5)),),
    # 200k models of 4 and 4.5 only as Sonnet; from 4.6 on the flag changes nothing
    "context-1m-2025-08-07": (Accepted((4,), (4, 6), ("sonnet",)), Accepted((4, 6))),
    CONTEXT_MANAGEMENT: (Accepted((4,)),),
    EFFORT: (Accepted((4, 5), (4, 6), ("opus",)), Accepted((4, 6))),
    "fine-grained-tool-streaming-2025-05-14": (Accepted((3, 7)),),
    "interleaved-thinking-2025-05-14": (Accepted((4,)),),
    MID_SYSTEM: (Accepted((4, 8)),),
    "tool-search-tool-2025-10-19": (Accepted((4, 5)),),
}
RENAMED: Mapping[str, str] = {"advanced-tool-use-2025-11-20": "tool-search-tool-2025-10-19"}


def sorted_betas(
    flags: Iterable[str], profile: Profile, never: frozenset[str] = frozenset()
) -> tuple[list[str], list[str]]:
    """(accepted, refused) of ``flags`` for a model: in order, each once, under Bedrock's names. ``never``: flags that
    the deployment has refused."""
    accepted: dict[str, None] = {}
    refused: dict[str, None] = {}
    for flag in flags:
        name = RENAMED.get(flag, flag)
        if name not in never and any(models.by(profile) for models in ACCEPTED.get(name, ())):
            accepted[name] = None
        else:
            refused[flag] = None
    return list(accepted), list(refused)
