"""What is deployed, as immutable values: subaccounts, deployments, and the catalog of models they serve."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

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


class Naming(Struct, frozen=True):
    """The operator's say over names. ``aliases``: a client's name -> the model it stands for, in any spelling; they
    hold even where a model of that name is deployed. ``include``, ``exclude``: patterns of the models that are served
    (see ``admitted``)."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class Catalog(Struct, frozen=True):
    """All models and their deployments at one moment; ``catalog_of`` makes one.

    ``by_name``: SAP's model name -> its deployments, in a stable order. ``aliases``: any other spelling -> SAP's name.
    ``pinned``: names that the operator gave to deployments by their ids -> those that run, all of one model.
    ``lookup``: all of these and the operator's aliases in lower case, the operator's first. ``read_at``: monotonic
    seconds."""

    by_name: Mapping[str, tuple[Deployment, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    read_at: float = 0.0
    pinned: Mapping[str, tuple[Deployment, ...]] = field(default_factory=dict)
    naming: Naming = Naming()
    lookup: Mapping[str, tuple[Deployment, ...]] = field(default_factory=dict)

    def resolve(self, name: str) -> str | None:
        """SAP's model name for what a client calls it, or None. Never another model than the one named, unless the
        operator named it so."""
        serving = self.serving(name)
        return serving[0].model if serving else None

    def serving(self, name: str) -> tuple[Deployment, ...]:
        """The deployments for what a client calls a model, all of the same model: those of an alias, else those pinned
        to the name, else all of the model's; none where nobody serves it."""
        return found_by(name, self.lookup)

    def near(self, name: str, limit: int = 5) -> list[str]:
        """Names that a client may have meant, nearest first: those that hold its name as a word, then similar ones."""
        own = {given.strip().lower() for given in (*self.pinned, *self.naming.aliases)}
        names = {spelled: spelled if spelled in own else ways[0].model for spelled, ways in self.lookup.items() if ways}
        wanted = next(iter(spellings(name)), name)
        found = sorted((known for known in names if f"-{wanted}-" in f"-{known}-"), reverse=True)
        found += difflib.get_close_matches(wanted, names, n=limit * 3, cutoff=0.5)
        # Each model once, in the spelling that came nearest
        spelled: dict[str, str] = {}
        for match in found:
            spelled.setdefault(names[match], match)
        return list(spelled.values())[:limit]

    def deployments(self) -> tuple[Deployment, ...]:
        """All deployments, each once."""
        return tuple(dict.fromkeys(d for ways in (*self.by_name.values(), *self.pinned.values()) for d in ways))

    def alias_target(self, name: str) -> str | None:
        """What the operator's alias ``name`` stands for, None where it is none."""
        own = {alias.strip().lower(): target for alias, target in self.naming.aliases.items()}
        return next((own[spelling] for spelling in spellings(name) if spelling in own), None)

    def unserved_aliases(self) -> dict[str, str]:
        """The operator's aliases whose model nobody serves: alias -> model."""
        return {alias: target for alias, target in self.naming.aliases.items() if not self.serving(alias)}

    def narrowed(self, keep: Callable[[Deployment], bool]) -> Catalog:
        """The Catalog of those deployments only, with the same names."""
        kept = [deployment for ways in self.by_name.values() for deployment in ways if keep(deployment)]
        pinned = {name: [d for d in ways if keep(d)] for name, ways in self.pinned.items()}
        return catalog_of(kept, self.read_at, self.naming, pinned)


def catalog_of(
    deployments: Iterable[Deployment],
    read_at: float = 0.0,
    naming: Naming = Naming(),  # noqa: B008 - frozen
    pinned: Mapping[str, Iterable[Deployment]] | None = None,
) -> Catalog:
    """The Catalog of ``deployments``, less those that ``naming`` does not admit; each model's are interleaved over its
    subaccounts, so that turns alternate. ``pinned``: names given to deployments, each name's all of one model; a name
    is admitted by itself or by its model."""
    models: dict[str, list[Deployment]] = {}
    for deployment in deployments:
        if admitted((deployment.model,), naming.include, naming.exclude):
            models.setdefault(deployment.model, []).append(deployment)
    by_name = {model: spread(models[model]) for model in sorted(models)}
    aliases: dict[str, str] = {}
    for model in by_name:
        for alias in aliases_of(model):
            if alias not in by_name:
                aliases.setdefault(alias, model)
    named = {
        name: spread(ways)
        for name, given in (pinned or {}).items()
        if (ways := list(given)) and admitted((name, ways[0].model), naming.include, naming.exclude)
    }
    lookup = {alias: by_name[model] for alias, model in aliases.items()} | by_name
    lookup |= {spelled.strip().lower(): ways for spelled, ways in (*by_name.items(), *named.items())}
    # An alias of an alias is none, and one that leads nowhere stays in the table: it means nothing else
    lookup |= {alias.strip().lower(): found_by(target, lookup) for alias, target in naming.aliases.items()}
    return Catalog(by_name, aliases, read_at, named, naming, lookup)


def found_by(name: str, lookup: Mapping[str, tuple[Deployment, ...]]) -> tuple[Deployment, ...]:
    """What the most literal spelling of ``name`` leads to."""
    if (found := lookup.get(name)) is not None:
        return found
    return next((found for spelling in spellings(name) if (found := lookup.get(spelling)) is not None), ())


def admitted(names: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether patterns let a model through that goes by ``names``: one of ``include`` where there are any, and none of
    ``exclude``. A pattern has ``*``, ``?``, ``[…]`` (case does not matter), or is ``re:`` and a regular expression that
    meets the beginning. It may be written for any spelling: ``claude-*`` meets ``anthropic--claude-4.5-sonnet``."""
    every = {s.lower() for name in names for s in (name, name.partition("--")[2] or name, *aliases_of(name))}

    def met(patterns: Sequence[str]) -> bool:
        return any(meets(spelled, pattern) for pattern in patterns for spelled in every)

    return (not include or met(include)) and not met(exclude)


def meets(name: str, pattern: str) -> bool:
    """Whether a pattern meets a name, which is in lower case."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name, re.IGNORECASE) is not None
    return fnmatch.fnmatchcase(name, pattern.strip().lower())


def spread(deployments: Iterable[Deployment]) -> tuple[Deployment, ...]:
    """Deployments of one model in a stable order, the subaccounts alternating."""
    per: dict[str, list[Deployment]] = {}
    for deployment in sorted(deployments, key=lambda d: (d.subaccount, d.resource_group, d.id)):
        per.setdefault(deployment.subaccount, []).append(deployment)
    return tuple(interleaved(list(per.values())))


def interleaved(groups: Sequence[Sequence[Deployment]]) -> Iterable[Deployment]:
    for position in range(max((len(group) for group in groups), default=0)):
        yield from (group[position] for group in groups if position < len(group))


# Names. SAP writes "anthropic--claude-4.5-sonnet", Anthropic "claude-sonnet-4-5[-20250929|-latest]" (3.x: version
# before size), Bedrock "eu.anthropic.claude-sonnet-4-5-20250929-v1:0". All by rule: families come and go.

# Anthropic's and OpenAI's dates, OpenAI's older ones (gpt-4-0613), Google's stable versions (gemini-2.0-flash-001)
_DATED = re.compile(r"[-@](?:20\d{6}|20\d\d-\d\d-\d\d|\d{3,4})$")
_NO_PREFIX = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|[\\%?#]|://")
"""What makes a name a path or a URL: in front of it stands no provider."""
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
    if "/" in name and not _NO_PREFIX.search(name):
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
