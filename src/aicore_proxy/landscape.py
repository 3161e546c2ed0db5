"""What is deployed, as immutable values: subaccounts, deployments, and the catalog of models they serve."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field


class Subaccount(Struct, frozen=True):
    """One SAP BTP subaccount with an AI Core service key. ``alias`` is the operator's own name for it."""

    alias: str
    api_url: str


class Deployment(Struct, frozen=True):
    """One running deployment. ``url`` is its inference base without a trailing slash; ``executable`` as SAP names it
    (``azure-openai``, ``aws-bedrock``, ``gcp-vertexai``); ``model`` SAP's model name; ``created_at`` ISO 8601."""

    id: str
    subaccount: str
    resource_group: str
    executable: str
    model: str
    url: str
    version: str = ""
    created_at: str = ""

    def __str__(self) -> str:
        return f"{self.subaccount}/{self.id}"


class Catalog(Struct, frozen=True):
    """All models and their deployments at one moment. ``by_name``: SAP's model name -> its deployments, in a stable
    order. ``aliases``: any other spelling -> SAP's name. ``read_at``: monotonic seconds."""

    by_name: Mapping[str, tuple[Deployment, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    read_at: float = 0.0

    def resolve(self, name: str) -> str | None:
        """SAP's model name for what a client calls it, or None. Never another model than the one named."""
        if name in self.by_name:
            return name
        for spelling in spellings(name):
            if spelling in self.by_name:
                return spelling
            if (sap_name := self.aliases.get(spelling)) is not None:
                return sap_name
        return None

    def near(self, name: str, limit: int = 5) -> list[str]:
        """Names that a client may have meant, nearest first."""
        wanted = next(iter(spellings(name)), name)
        names = dict(self.aliases) | {sap_name: sap_name for sap_name in self.by_name}
        found = difflib.get_close_matches(wanted, names, n=limit * 3, cutoff=0.5)
        # Each model once, in the spelling that came nearest
        spelled: dict[str, str] = {}
        for match in found:
            spelled.setdefault(names[match], match)
        return list(spelled.values())[:limit]


def catalog_of(deployments: Iterable[Deployment], read_at: float = 0.0) -> Catalog:
    """The Catalog of ``deployments``; each model's are interleaved over its subaccounts, so that turns alternate."""
    models: dict[str, dict[str, list[Deployment]]] = {}
    for deployment in sorted(deployments, key=lambda d: (d.subaccount, d.resource_group, d.id)):
        models.setdefault(deployment.model, {}).setdefault(deployment.subaccount, []).append(deployment)
    by_name = {model: tuple(interleaved(list(per.values()))) for model, per in sorted(models.items())}
    aliases: dict[str, str] = {}
    for model in by_name:
        for alias in aliases_of(model):
            if alias not in by_name:
                aliases.setdefault(alias, model)
    return Catalog(by_name, aliases, read_at)


def interleaved(groups: Sequence[Sequence[Deployment]]) -> Iterable[Deployment]:
    for position in range(max((len(group) for group in groups), default=0)):
        yield from (group[position] for group in groups if position < len(group))


# Names. SAP writes "anthropic--claude-4.5-sonnet", Anthropic "claude-sonnet-4-5[-20250929|-latest]" (3.x: version
# before size), Bedrock "eu.anthropic.claude-sonnet-4-5-20250929-v1:0". All by rule: families come and go.

_DATED = re.compile(r"[-@](?:20\d{6}|20\d\d-\d\d-\d\d)$")
_BEDROCK = re.compile(r"^(?:[a-z]{2,6}\.)?([a-z0-9]+)\.(.+?)(?:-v\d+(?::\d+)?)?$")
_CLAUDE_NEW = re.compile(r"^claude-([a-z]+)-(\d+)(?:[-.](\d{1,2}))?$")
_CLAUDE_OLD = re.compile(r"^claude-(\d+)(?:[-.](\d{1,2}))?-([a-z]+)$")


def spellings(name: str) -> Iterable[str]:
    """Simpler spellings of a client's model name, the most literal first: without ``models/``, a provider prefix, a
    ``[1m]`` suffix, a date, ``-latest``; Claude's in SAP's order."""
    seen: set[str] = set()
    pending = [name.strip().lower()]
    while pending:
        spelling = pending.pop(0)
        if spelling in seen or not spelling:
            continue
        seen.add(spelling)
        yield spelling
        pending += [s for s in _simpler(spelling) if s not in seen]


def _simpler(name: str) -> Iterable[str]:
    if name.startswith("models/"):
        yield name.removeprefix("models/")
    if "/" in name:
        yield name.rpartition("/")[2]
    if match := re.match(r"^(.*)\[[^\]]*\]$", name):
        yield match[1]
    if "--" in name:
        yield name.partition("--")[2]
    if (match := _BEDROCK.match(name)) and match[1] in ("anthropic", "amazon", "meta", "mistral", "cohere"):
        yield match[2]
    if name.endswith("-latest"):
        yield name.removesuffix("-latest")
    if _DATED.search(name):
        yield _DATED.sub("", name)
    if match := _CLAUDE_NEW.match(name):
        yield claude_name(match[2], match[3], match[1])
    elif match := _CLAUDE_OLD.match(name):
        yield claude_name(match[1], match[2], match[3])


def claude_name(major: str, minor: str | None, size: str) -> str:
    """SAP's order without its vendor prefix: ``claude-4.5-sonnet``."""
    return f"claude-{major}.{minor}-{size}" if minor and minor != "0" else f"claude-{major}-{size}"


def aliases_of(model: str) -> list[str]:
    """Other names under which a client may ask for SAP's ``model``; the vendor's usual one first."""
    bare = model.partition("--")[2] or model
    aliases = [bare] if bare != model else []
    if match := re.match(r"^claude-(\d+)(?:\.(\d+))?-([a-z]+)$", bare):
        major, minor, size = match.groups()
        number = f"{major}-{minor}" if minor else major
        # Anthropic put the size first from Claude 4 on
        vendor = f"claude-{size}-{number}" if int(major) >= 4 else f"claude-{number}-{size}"
        aliases = [vendor, bare]
    return aliases
