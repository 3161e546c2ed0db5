"""Which models a key may use, however they are called."""

from __future__ import annotations

import time

import pytest
from tests.edge.test_keys import request

from aicore_proxy.gateway.keys import Caller, Keys, clashes, client_key
from aicore_proxy.gateway.listing import names
from aicore_proxy.gateway.permits import forbidden, may_use, visible
from aicore_proxy.landscape import Catalog, Deployment, Naming, catalog_of
from aicore_proxy.protocol.fault import Fault, Kind


def deployment(model: str, number: int = 1) -> Deployment:
    return Deployment(f"d{number}-{model}", "eu", "default", "azure-openai", model, "https://example.test")


@pytest.fixture
def catalog() -> Catalog:
    models = ["gpt-5", "gpt-5-mini", "anthropic--claude-4.5-sonnet", "gemini-2.5-pro"]
    naming = Naming({"team": "gpt-5", "Fast": "gpt-5-mini", "lost": "gone"})
    return catalog_of([deployment(m) for m in models], 0.0, naming, {"canary": [deployment("gpt-5", 2)]})


def caller(*models: str) -> Caller:
    return Caller("ci", "0", models)


@pytest.mark.parametrize(
    ("models", "name", "allowed"),
    [
        ((), "gpt-5", True),
        (("gpt-5",), "gpt-5", True),
        (("gpt-5",), "GPT-5", True),
        (("gpt-5",), "openai/gpt-5", True),
        (("gpt-5",), "team", True),
        (("gpt-5",), "canary", True),
        (("gpt-5",), "gpt-5-mini", False),
        (("gpt-5*",), "gpt-5-mini", True),
        (("gpt-5*",), "fast", True),
        (("claude-*",), "anthropic--claude-4.5-sonnet", True),
        (("claude-*",), "claude-sonnet-4-5-20250929", True),
        (("anthropic--*",), "claude-sonnet-4-5", True),
        (("claude-sonnet-4-5",), "anthropic--claude-4.5-sonnet", True),
        (("claude-*",), "gpt-5", False),
        (("team",), "team", True),
        (("team",), "TEAM", True),
        (("team",), "x/team", True),
        (("team",), "gpt-5", False),
        (("team",), "canary", False),
        (("cheap*",), "cheap/gpt-5", False),
        (("cheap*",), "cheap--gpt-5", False),
        (("fast",), "fast", True),
        (("lost",), "lost", False),
        (("*",), "gemini-2.5-pro", True),
        (("*",), "nothing", False),
    ],
)
def test_patterns_meet_the_model_and_the_operators_names(
    catalog: Catalog, models: tuple[str, ...], name: str, allowed: bool
) -> None:
    assert may_use(caller(*models), name, catalog) is allowed


@pytest.mark.parametrize("models", [(), ("gpt-5",), ("team",), ("claude-*", "fast"), ("nothing",), ("canary",)])
def test_the_list_shows_exactly_what_may_be_used(catalog: Catalog, models: tuple[str, ...]) -> None:
    shown = names(visible(caller(*models), catalog))
    assert sorted(shown) == sorted(n for n in names(catalog) if may_use(caller(*models), n, catalog))


def test_the_refusal_says_what_the_key_may_use(catalog: Catalog) -> None:
    fault = forbidden(caller("claude-*", "team"), "gpt-5-mini", catalog)
    assert (fault.kind, fault.status, fault.code) == (Kind.FORBIDDEN, 403, "model_not_allowed")
    assert fault.message == (
        "The key 'ci' may not use the model 'gpt-5-mini'. "
        "It may use: team, claude-sonnet-4-5, anthropic--claude-4.5-sonnet."
    )
    assert "None that it may use is deployed" in forbidden(caller("other"), "gpt-5", catalog).message


def test_a_key_is_given_plain_or_as_a_hash() -> None:
    hashed = "sha256:2C26B46B68FFC68FF99B453C1D30413413422D706483BFA0F98A5E886266E7AE"
    assert client_key("a", hashed).digest == client_key("a", "foo").digest
    caller = Keys([client_key("a", hashed, models=["gpt-*"], owner="team a")]).authenticate(
        request(("x-api-key", "foo"))
    )
    assert (caller.name, caller.models, caller.owner) == ("a", ("gpt-*",), "team a")
    with pytest.raises(Fault):
        Keys([client_key("a", hashed)]).authenticate(request(("x-api-key", hashed)))


@pytest.mark.parametrize("given", ["", "  ", "sha256:", "sha256:12", "SHA256:" + "g" * 64])
def test_what_is_no_key_is_refused_without_showing_it(given: str) -> None:
    with pytest.raises(ValueError, match=r"empty|64 hexadecimal") as refused:
        client_key("a", given)
    assert "gggg" not in str(refused.value)


def test_clashes_are_named_and_change_nothing() -> None:
    twice = [client_key("a", "foo"), client_key("b", "bar"), client_key("c", "foo"), client_key("b", "baz")]
    assert clashes(twice) == ["The keys 'a' and 'c' are the same key.", "Two keys have the name 'b'."]
    keys = Keys([client_key("old", "old")])
    with pytest.raises(ValueError, match="the same key"):
        keys.replace(twice)
    assert keys.named("old") is not None
    keys.replace([client_key("new", "new")])
    assert keys.named("new") is not None
    assert keys.named("old") is None


@pytest.mark.timed
def test_many_keys_cost_no_more_than_one() -> None:
    asked = request(("authorization", "Bearer key-3999"))

    def cost(keys: Keys) -> float:
        best = 1.0
        for _ in range(7):
            began = time.perf_counter()
            for _ in range(300):
                keys.authenticate(asked)
            best = min(best, (time.perf_counter() - began) / 300)
        return best

    one = cost(Keys([client_key("a", "key-3999")]))
    many = cost(Keys([client_key(str(n), f"key-{n}") for n in range(4000)]))
    assert many < 2 * one + 5e-6
