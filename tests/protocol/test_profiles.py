"""Facts about model families: every model's, in ``profiles.json``, one per line; the diff is the review."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aicore_proxy.protocol.profiles import (
    BUDGETS,
    EFFORTS,
    SMALLEST_BUDGET,
    Profile,
    budget_of,
    effort_of,
    nearest_effort,
    profile_of,
)

GOLDEN = Path(__file__).parent / "profiles.json"
DEFAULT = msgspec.to_builtins(Profile(family=""))


def told(model: str) -> dict[str, object]:
    """A model's facts that are not the usual ones."""
    facts = msgspec.to_builtins(profile_of(model))
    return {
        name: sorted(value) if name == "refuses" else list(value) if isinstance(value, tuple) else value
        for name, value in facts.items()
        if value != DEFAULT[name]
    }


def test_every_models_facts(update_golden: bool) -> None:
    models = msgspec.json.decode(GOLDEN.read_bytes(), type=dict[str, dict[str, object]])
    facts = {model: told(model) for model in models}
    if update_golden:
        lines = ",\n".join(f'"{model}": {msgspec.json.encode(found).decode()}' for model, found in facts.items())
        GOLDEN.write_text(f"{{\n{lines}\n}}\n")
    assert facts == (facts if update_golden else models)


@pytest.mark.parametrize("effort", [*EFFORTS, "a new word"])
@pytest.mark.parametrize("max_tokens", [None, 100, 1365, 1366, 4000, 10_000, 1_000_000])
def test_an_answer_fits_beside_the_thinking(effort: str, max_tokens: int | None) -> None:
    budget = budget_of(effort, max_tokens)
    usual = BUDGETS.get(effort, 8192)
    assert budget <= usual
    assert (budget == 0) is (effort == "none")
    if max_tokens is None:
        assert budget == usual
    elif effort != "none":
        assert budget == min(usual, max(SMALLEST_BUDGET, max_tokens * 3 // 4))
        assert budget >= 1024


@pytest.mark.parametrize(
    ("budget", "effort"),
    [(-1, "medium"), (0, "none"), (1, "minimal"), (1024, "minimal"), (1025, "low"), (4096, "low"), (4097, "medium"),
     (16384, "medium"), (16385, "high"), (32768, "high"), (32769, "xhigh"), (57344, "xhigh"), (57345, "max")],
)  # fmt: skip
def test_the_effort_of_a_budget(budget: int, effort: str) -> None:
    assert effort_of(budget) == effort


@pytest.mark.parametrize("effort", EFFORTS)
def test_there_and_back_an_effort_is_the_same(effort: str) -> None:
    assert effort_of(budget_of(effort)) == effort


@pytest.mark.parametrize(
    ("effort", "offered", "nearest"),
    [
        ("high", (), None),
        ("high", ("low", "high"), "high"),
        ("medium", ("low", "high"), "low"),
        ("xhigh", ("low", "high"), "high"),
        ("none", ("none", "low"), "none"),
        ("minimal", ("none", "low"), "low"),
        ("minimal", ("none",), "none"),
        ("none", ("minimal", "low"), "minimal"),
        ("a new word", ("low", "high"), "low"),
        ("a new word", ("minimal", "high"), "high"),
    ],
)
def test_the_nearest_effort_that_a_model_takes(effort: str, offered: tuple[str, ...], nearest: str | None) -> None:
    assert nearest_effort(effort, offered) == nearest
