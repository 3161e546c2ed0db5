"""What of a subaccount is served, and the names that an operator gave to deployments by their ids.

The rule for such names. A deployment's id is what the operator meant, so the name leads there and nowhere else as long
as one of its ids runs. But an answer never comes from a model of another family than its name says: a deployment that
runs one is left out of the name, with a warning. Another version or variant than the name says is served, since the id
was written down for it, and warned about. A name that says nothing of a model (``team-chat``) may lead to any. All
deployments of a name run the same model: those that run another than the best are left out. Whoever wants a name to
lie uses an alias, which names both models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct, field

from aicore_proxy.landscape import Deployment, admitted, spellings

Mismatch = Literal["", "version", "variant", "family"]
RANKS: Mapping[Mismatch, int] = {"": 0, "variant": 1, "version": 2, "family": 3}


class Scope(Struct, frozen=True):
    """Of one subaccount. ``resource_groups``: those that are read; none: all that the key may see. ``pinned``: a
    client's name -> ids of deployments. ``include``, ``exclude``: patterns of models (``landscape.admitted``)."""

    resource_groups: tuple[str, ...] = ()
    pinned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def admits(self, deployment: Deployment) -> bool:
        return admitted((deployment.model,), self.include, self.exclude)


class Pin(Struct, frozen=True):
    """A name that was given to a deployment."""

    name: str
    deployment: Deployment


def chosen(pins: Iterable[Pin]) -> tuple[dict[str, tuple[Deployment, ...]], list[str]]:
    """Which deployments each name leads to, by the rule above, and what is to be said of the others: one line each."""
    by_name: dict[str, list[Deployment]] = {}
    for pin in pins:
        by_name.setdefault(pin.name, []).append(pin.deployment)
    leading: dict[str, tuple[Deployment, ...]] = {}
    warnings: list[str] = []
    for name, deployments in by_name.items():
        differences = {d: mismatch(name, d) for d in deployments}
        best = min(deployments, key=lambda d: RANKS[differences[d]])
        for deployment, differs in differences.items():
            warnings += _warning(name, deployment, differs, best)
        if differences[best] != "family":
            leading[name] = tuple(d for d in differences if d.model == best.model)
    return leading, warnings


def _warning(name: str, deployment: Deployment, differs: Mismatch, best: Deployment) -> list[str]:
    runs = f"deployment {deployment.id} runs {deployment.model}"
    runs += f" ({deployment.version})" if deployment.version not in ("", "latest") else ""
    what = f"{deployment.subaccount}: configured as {name}, but {runs}"
    if differs == "family":
        return [
            f"{what}: it is not served under that name. If that is meant, name it as an alias: {name} -> its model."
        ]
    if deployment.model != best.model:
        return [f"{what}, and {best.id} runs {best.model}: under that name only {best.model} is served."]
    return [f"{what}: another {differs} than the name says; it is served under it."] if differs else []


def missing(alias: str, scope: Scope, running: Iterable[str], groups: Sequence[str]) -> list[str]:
    """What is to be said of ids that do not run, one line each."""
    ids = set(running)
    lost = [(name, wanted) for name, several in scope.pinned.items() for wanted in several if wanted not in ids]
    where = f"in the resource groups {', '.join(groups)}" if groups else "in any resource group"
    return [f"{alias}: deployment {wanted}, configured as {name}, does not run {where}." for name, wanted in lost]


# What a name says of the model behind it

_DATE = re.compile(r"20\d\d-?\d\d-?\d\d")
_TOKEN = re.compile(r"\d+k(?![a-z])|o\d+(?![a-z0-9])|\d+(?:\.\d+)*o?(?![a-z])|[a-z]+")
_FAMILIES = {
    **dict.fromkeys(("gpt", "chatgpt", "openai"), "gpt"),
    **dict.fromkeys(("claude", "sonnet", "opus", "haiku", "anthropic"), "claude"),
    **dict.fromkeys(("mistral", "mistralai", "mixtral", "codestral"), "mistral"),
    **dict.fromkeys(("cohere", "command"), "cohere"),
    **dict.fromkeys(("sonar", "perplexity"), "sonar"),
    **dict.fromkeys(("embedding", "embeddings", "embed"), "embedding"),
    **{name: name for name in ("gemini", "nova", "titan", "llama", "qwen", "deepseek", "granite", "rpt", "grok")},
}  # fmt: skip
_VARIANTS = frozenset(
    (
        *("mini", "nano", "pro", "lite", "flash", "turbo", "codex", "sol", "terra", "luna", "opus", "sonnet", "haiku"),
        *("small", "medium", "large", "micro", "premier", "instruct", "reasoning", "reranker", "image", "realtime"),
        *("embedding", "deep", "research", "16k", "32k"),
    )
)
_NOTHING_IS_A_VARIANT = ("gpt", "gemini")  # of these "gpt-5" is one model and "gpt-5-mini" another


class Claims(Struct, frozen=True):
    """What a name says: ``families`` with the vendor's, ``versions`` as written, ``variants``, ``date`` as digits."""

    families: frozenset[str]
    versions: frozenset[str]
    variants: frozenset[str]
    date: str = ""


def claims(name: str) -> Claims:
    """What ``name`` says of the model behind it, by the field's naming; all empty for a name that says nothing."""
    date = match[0].replace("-", "") if (match := _DATE.search(name)) else ""
    spelled = [*spellings(name)]
    tokens = _TOKEN.findall(spelled[-1]) if spelled else []
    families = {_FAMILIES[token] for token in tokens if token in _FAMILIES}
    if any(re.fullmatch(r"o\d+", token) for token in tokens):
        families.add("gpt")
    numbers = [token for token in tokens if token[-1] != "k" and re.search(r"\d", token)]
    versions = {{"35": "3.5"}.get(number, number) for number in numbers}  # SAP writes gpt-35-turbo
    return Claims(frozenset(families), frozenset(versions), frozenset(tokens) & _VARIANTS, date)


def mismatch(name: str, deployment: Deployment) -> Mismatch:
    """Where what ``name`` says differs from what the deployment runs: the gravest difference, nothing where it says
    nothing else. Vectors of different models do not mix: of embeddings, each model is a family of its own."""
    said, runs = claims(name), claims(deployment.model)
    if not said.families:
        return ""
    embeds = "embedding" in runs.families
    if not said.families <= runs.families or embeds != ("embedding" in said.families):
        return "family"
    differs = _within_family(said, runs, deployment)
    return "family" if embeds and differs else differs


def _within_family(said: Claims, runs: Claims, deployment: Deployment) -> Mismatch:
    resolved = claims(deployment.version).date
    if not said.versions <= runs.versions or (said.date and resolved and said.date != resolved):
        return "version"
    exact = bool(said.versions) and any(family in said.families for family in _NOTHING_IS_A_VARIANT)
    return "" if said.variants == runs.variants or (not exact and said.variants <= runs.variants) else "variant"
