"""Names that an operator gives: pins to deployments' ids, aliases, patterns; and what is said of those that lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.gateway.listing import names, unknown_model
from aicore_proxy.landscape import Catalog, Deployment, Naming, admitted, catalog_of
from aicore_proxy.sap.scope import Mismatch, Pin, chosen, mismatch


def deployment(identity: str, model: str, subaccount: str = "eu", version: str = "latest") -> Deployment:
    return Deployment(identity, subaccount, "default", "any", model, "https://sap.invalid/d", version)


@pytest.mark.parametrize(
    ("name", "runs", "differs"),
    [
        ("gpt-4o", "gpt-4o", ""),
        ("GPT-4o", "gpt-4o", ""),
        ("gpt-4o-2024-08-06", "gpt-4o 2024-08-06", ""),
        ("gpt-4o-2024-08-06", "gpt-4o latest", ""),
        ("gpt-4o-2024-08-06", "gpt-4o 2024-05-13", "version"),
        ("gpt-o3-mini", "o3-mini", ""),
        ("gpt-3.5-turbo", "gpt-35-turbo", ""),
        ("prod-gpt-5", "gpt-5", ""),
        ("3.7-sonnet", "anthropic--claude-3.7-sonnet", ""),
        ("claude-sonnet-4-5-20250929", "anthropic--claude-4.5-sonnet 1", ""),
        ("claude", "anthropic--claude-4.5-sonnet", ""),
        ("team-chat", "gpt-5", ""),
        ("", "gpt-5", ""),
        ("gpt-4", "gpt-4o", "version"),
        ("gpt-4o", "gpt-5", "version"),
        ("claude-4-sonnet", "anthropic--claude-4.5-sonnet", "version"),
        ("gpt-5", "gpt-5-mini", "variant"),
        ("gpt-4-32k", "gpt-4", "variant"),
        ("claude-4.5-opus", "anthropic--claude-4.5-sonnet", "variant"),
        ("gemini-2.5-pro", "gemini-2.5-flash", "variant"),
        ("gpt-4o", "anthropic--claude-4-sonnet", "family"),
        ("sonnet", "gpt-5", "family"),
        ("gemini", "gemini-embedding", "family"),
        ("text-embedding-3-small", "text-embedding-3-large", "family"),
        ("text-embedding-3-small", "text-embedding-3-small", ""),
    ],
)
def test_what_a_name_says_is_compared_with_what_runs(name: str, runs: str, differs: Mismatch) -> None:
    model, _, version = runs.partition(" ")
    assert mismatch(name, deployment("d1", model, version=version)) == differs


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=12))
def test_any_name_can_be_compared(name: str, model: str, version: str) -> None:
    assert mismatch(name, deployment("d1", model, version=version)) in ("", "version", "variant", "family")
    assert mismatch(model, deployment("d1", model)) == ""


def test_a_name_leads_to_what_it_says_and_never_to_another_family() -> None:
    pins = [
        Pin("gpt-4o", deployment("d-right", "gpt-4o")),
        Pin("gpt-4o", deployment("d-other", "gpt-4.1", "us")),
        Pin("gpt-4o", deployment("d-claude", "anthropic--claude-4-sonnet")),
        Pin("gpt-5", deployment("d-mini", "gpt-5-mini")),
        Pin("sonnet", deployment("d-right", "gpt-4o")),
        Pin("chat", deployment("d-claude", "anthropic--claude-4-sonnet")),
    ]
    leading, warnings = chosen(pins)
    assert {name: [d.id for d in ways] for name, ways in leading.items()} == {
        "gpt-4o": ["d-right"],
        "gpt-5": ["d-mini"],
        "chat": ["d-claude"],
    }
    alias = "it is not served under that name. If that is meant, name it as an alias:"
    claude = "anthropic--claude-4-sonnet"
    assert "\n".join(warnings) == (
        "us: configured as gpt-4o, but deployment d-other runs gpt-4.1, and d-right runs gpt-4o: "
        "under that name only gpt-4o is served.\n"
        f"eu: configured as gpt-4o, but deployment d-claude runs {claude}: {alias} gpt-4o -> its model.\n"
        "eu: configured as gpt-5, but deployment d-mini runs gpt-5-mini: another variant than the name says; "
        "it is served under it.\n"
        f"eu: configured as sonnet, but deployment d-right runs gpt-4o: {alias} sonnet -> its model."
    )


DEPLOYED = [
    deployment("d1", "gpt-5"),
    deployment("d2", "gpt-5", "us"),
    deployment("d3", "gpt-4o"),
    deployment("d4", "anthropic--claude-4.5-sonnet"),
]


def ids(catalog: Catalog, name: str) -> list[str]:
    return [d.id for d in catalog.serving(name)]


def test_the_operators_names_come_first() -> None:
    naming = Naming({"Fast": "claude-sonnet-4-5", "gpt-4o": "openai/gpt-5", "again": "fast", "gone": "gpt-5-nano"})
    catalog = catalog_of(DEPLOYED, naming=naming, pinned={"gpt-5": [DEPLOYED[1]], "Team-Chat": [DEPLOYED[2]]})
    assert ids(catalog, "fast") == ids(catalog, "FAST") == ids(catalog, "models/fast") == ["d4"]
    assert ids(catalog, "gpt-5") == ids(catalog, "gpt-4o") == ids(catalog, "gpt-4o-2024-08-06") == ["d2"]
    assert ids(catalog, "team-chat") == ["d3"]
    assert ids(catalog, "again") == ids(catalog, "gone") == [], "an alias of an alias is none"
    assert catalog.unserved_aliases() == {"again": "fast", "gone": "gpt-5-nano"}
    assert names(catalog)[:4] == ["Fast", "gpt-4o", "gpt-5", "Team-Chat"]
    assert "team-chat" in catalog.near("team-chad")
    narrowed = catalog.narrowed(lambda d: d.id != "d2")
    assert ids(narrowed, "gpt-5") == ["d1"], "what is pinned does not run: the name means its model again"
    assert narrowed.naming == naming


def test_an_alias_that_leads_nowhere_is_a_404_that_says_both_names() -> None:
    catalog = catalog_of(DEPLOYED, naming=Naming({"fast": "gpt-5-nanoo"}))
    fault = unknown_model("fast", catalog)
    assert (fault.status or 404) == 404
    assert fault.message.startswith("The model 'gpt-5-nanoo' (for which 'fast' stands) does not exist")
    assert "Did you mean gpt-5" in fault.message


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ((), (), {"gpt-5", "gpt-4o", "anthropic--claude-4.5-sonnet", "team-chat"}),
        (("gpt-*",), (), {"gpt-5", "gpt-4o", "team-chat"}),
        (("claude-sonnet-*",), (), {"anthropic--claude-4.5-sonnet"}),
        (("GPT-?",), (), {"gpt-5"}),
        ((), ("claude-*", "gpt-4o"), {"gpt-5"}),
        (("gpt-*",), ("*",), set()),
        (("team-*",), (), {"team-chat"}),
    ],
)
def test_patterns_say_what_is_served(include: tuple[str, ...], exclude: tuple[str, ...], left: set[str]) -> None:
    catalog = catalog_of(DEPLOYED, naming=Naming({}, include, exclude), pinned={"team-chat": [DEPLOYED[2]]})
    assert {*catalog.by_name, *catalog.pinned} == left
    assert all(ids(catalog, name) for name in left)


@given(st.lists(st.text(max_size=20), max_size=3), st.text(max_size=30))
def test_any_pattern_can_be_asked(patterns: list[str], model: str) -> None:
    assert admitted((model,), (), patterns) != (admitted((model,), patterns, ()) if patterns else False)
