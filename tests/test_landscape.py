"""Names: every spelling that clients use reaches the model it means, by rule, and no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.landscape import Catalog, Deployment, aliases_of, catalog_of, spellings


def deployed(*models: str, subaccounts: tuple[str, ...] = ("eu",)) -> Catalog:
    return catalog_of(
        Deployment(f"d{number}{place}", place, "default", "any", model, "https://sap.invalid/d")
        for number, model in enumerate(models)
        for place in subaccounts
    )


CLAUDES = ("4.5-sonnet", "4-opus", "3.5-sonnet", "5.5-opus", "5-sonnet", "6.1-novella")
REAL = deployed(
    *(f"anthropic--claude-{name}" for name in CLAUDES),
    *("gpt-4o", "gpt-5", "gpt-5-mini", "gpt-5.4-nano", "o3", "gemini-2.5-pro", "gemini-3.5-flash-lite"),
    *("mistralai--mistral-medium", "amazon--nova-lite", "text-embedding-3-small"),
)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("anthropic--claude-4.5-sonnet", "anthropic--claude-4.5-sonnet"),
        ("claude-sonnet-4-5", "anthropic--claude-4.5-sonnet"),
        ("claude-sonnet-4.5", "anthropic--claude-4.5-sonnet"),
        ("claude-4.5-sonnet", "anthropic--claude-4.5-sonnet"),
        ("claude-sonnet-4-5-20250929", "anthropic--claude-4.5-sonnet"),
        ("claude-sonnet-4-5@20250929", "anthropic--claude-4.5-sonnet"),
        ("claude-sonnet-4-5-latest", "anthropic--claude-4.5-sonnet"),
        ("claude-sonnet-4-5[1m]", "anthropic--claude-4.5-sonnet"),
        ("claude-sonnet-4-5-20250929[1m]", "anthropic--claude-4.5-sonnet"),
        ("anthropic/claude-sonnet-4-5", "anthropic--claude-4.5-sonnet"),
        ("anthropic--claude-4.5-sonnet[1m]", "anthropic--claude-4.5-sonnet"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic--claude-4.5-sonnet"),
        ("anthropic.claude-opus-5-5", "anthropic--claude-5.5-opus"),
        ("claude-opus-4-20250514", "anthropic--claude-4-opus"),
        ("claude-opus-4-0", "anthropic--claude-4-opus"),
        ("claude-3-5-sonnet-20241022", "anthropic--claude-3.5-sonnet"),
        ("claude-3-5-sonnet-latest", "anthropic--claude-3.5-sonnet"),
        ("claude-sonnet-5", "anthropic--claude-5-sonnet"),
        ("claude-novella-6-1-20270101", "anthropic--claude-6.1-novella"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-0806", "gpt-4o"),
        ("gemini-2.5-pro-001", "gemini-2.5-pro"),
        ("openai/gpt-5", "gpt-5"),
        ("GPT-5", "gpt-5"),
        ("gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gemini-2.5-pro-latest", "gemini-2.5-pro"),
        ("mistral-medium", "mistralai--mistral-medium"),
        ("nova-lite", "amazon--nova-lite"),
    ],
)
def test_a_name_reaches_the_model_it_means(asked: str, meant: str) -> None:
    assert REAL.resolve(asked) == meant


@pytest.mark.parametrize(
    "asked", ["gpt-6", "gpt-5-pro", "claude-haiku-4-5", "claude-sonnet-4-6", "claude", "sonnet", "", "[1m]"]
)
def test_a_name_that_nobody_serves_is_never_substituted(asked: str) -> None:
    assert REAL.resolve(asked) is None


def test_near_names_are_those_one_may_have_meant() -> None:
    assert REAL.near("claude-sonet-4-5")[0] == "claude-sonnet-4-5"
    assert "gpt-5-mini" in REAL.near("gpt-5-mni")
    assert REAL.near("zzzzzzzz") == []
    assert REAL.near("opus") == ["claude-opus-5-5", "claude-opus-4"]


@given(st.text(max_size=300))
def test_any_name_is_looked_up_without_an_error(name: str) -> None:
    found = REAL.resolve(name)

    assert found is None or found in REAL.by_name
    assert len(list(spellings(name))) < 100


def test_every_alias_reaches_its_own_model() -> None:
    for model in REAL.by_name:
        for alias in aliases_of(model):
            assert REAL.resolve(alias) == model


def test_turns_alternate_over_subaccounts() -> None:
    catalog = catalog_of(
        Deployment(f"d{number}", place, "default", "any", "gpt-5", "https://sap.invalid/d")
        for place, count in (("eu", 3), ("us", 2))
        for number in range(count)
    )

    assert [d.subaccount for d in catalog.by_name["gpt-5"]] == ["eu", "us", "eu", "us", "eu"]
