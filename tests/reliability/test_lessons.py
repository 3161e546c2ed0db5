"""A 400 that names a member or a beta flag: it is left out, learned, and the client told (D17)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.asking import body, error_of, said
from tests.reliability.conftest import SUBACCOUNTS, House, running_house
from tests.reliability.test_sharing import by_worker

CLAUDE, GPT, GEMINI = "anthropic--claude-4.5-sonnet", "gpt-5", "gemini-2.5-pro"
SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
TOOLS = {
    "chat": [{"type": "function", "function": {"name": "look", "strict": True, "parameters": SCHEMA}}],
    "messages": [{"name": "look", "cache_control": {"type": "ephemeral"}, "input_schema": {"type": "object"}}],
}
CASES = {
    # what the deployment does not know; how a client comes to send it; what the client is told
    "relayed": ("chat", GPT, "metadata", {"metadata": {"team": "x"}}, "metadata"),
    "relayed, new to everybody": ("chat", GPT, "brand_new", {"brand_new": 1}, "brand_new"),
    "relayed, in every tool": (
        *("chat", GPT, "tools.*.function.strict"),
        *({"tools": TOOLS["chat"]}, "tools.function.strict"),
    ),
    "relayed to Claude": ("messages", CLAUDE, "top_k", {"top_k": 5}, "top_k"),
    "relayed to Claude, in every tool": (
        *("messages", CLAUDE, "tools.*.cache_control"),
        *({"tools": TOOLS["messages"]}, "tools.cache_control"),
    ),
    "translated for Claude": ("chat", CLAUDE, "top_p", {"top_p": 0.5}, "top_p"),
    "translated for Gemini": ("messages", GEMINI, "generationConfig.topK", {"top_k": 5}, "generationConfig.topK"),
    "translated for GPT": ("messages", GPT, "tools.*.function.strict", {"tools": TOOLS["messages"]}, ""),
}  # fmt: skip


def dropped(answer: Any) -> list[str]:
    return [name.strip() for name in answer.headers.get("x-aicore-proxy-dropped", "").split(",") if name.strip()]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_d17_what_a_deployment_does_not_know_is_left_out_and_learned(house: House, case: str, stream: bool) -> None:
    protocol, model, unknown, more, told = CASES[case]
    house.simulator.script({"unknown": [unknown]})
    before = house.received(model)

    first = [house.ask(protocol, model, stream=stream, **more) for _ in SUBACCOUNTS]
    assert all(said(protocol, answer) for answer in first)
    tried = house.since(before, model)
    repeats = 2 if told else 1  # each deployment's own 400; none where nothing unknown goes up
    assert tried == dict.fromkeys(SUBACCOUNTS, repeats)

    again = [house.ask(protocol, model, stream=stream, **more) for _ in SUBACCOUNTS]
    assert house.since(before, model) == dict.fromkeys(SUBACCOUNTS, repeats + 1)
    for answer in (*first, *again):
        assert said(protocol, answer)
        assert (told in dropped(answer)) is bool(told)
        assert answer.headers["x-aicore-proxy-attempts"] == "1"
    # and nothing else is left out of requests that do not have it
    assert dropped(house.ask(protocol, model, stream=stream)) == []


@pytest.mark.parametrize("envelope", ["bare", "anthropic"])
def test_d17_a_beta_flag_that_is_not_named_is_found_among_those_that_were_never_taken(
    tmp_path: Path, envelope: str
) -> None:
    context, thinking = "context-management-2025-06-27", "interleaved-thinking-2025-05-14"
    with running_house(tmp_path, 1, fast=False) as house:
        house.simulator.switch(beta_envelope=envelope)

        def ask(*flags: str) -> list[str]:
            headers = {"anthropic-beta": ",".join(flags)}
            managed = {"context_management": {"edits": []}}
            answer = house.proxy.http.post(
                "/v1/messages", json=body("messages", CLAUDE, "Hi", **managed), headers=headers
            )
            assert said("messages", answer)
            return dropped(answer)

        def went_up() -> tuple[list[str], bool]:
            sent = house.simulator.requests()[-1]["body"]
            return sent.get("anthropic_beta", []), "context_management" in sent

        assert ask("claude-code-20250219", thinking) == ["context_management"]
        house.simulator.script({"unknown": [context]})
        before = house.received(CLAUDE)
        for count in (2, 3):
            # what hangs on the flag goes with it; the others, which were taken before, stay
            assert ask("claude-code-20250219", context, thinking) == [f"anthropic-beta.{context}", "context_management"]
            assert went_up() == (["claude-code-20250219", thinking], False)
            assert house.since(before, CLAUDE) == {"sub-0": count}


KEPT = {
    "the form of the answer": ("chat", GPT, "response_format", {"response_format": {"type": "json_object"}}),
    "tools": ("chat", GPT, "tools", {"tools": TOOLS["chat"]}),
    "a tool's parameters": ("chat", GPT, "tools.*.function.parameters", {"tools": TOOLS["chat"]}),
    "the bound": ("messages", CLAUDE, "max_tokens", {}),
    "the conversation": ("messages", CLAUDE, "messages.*.content", {}),
    "system": ("messages", CLAUDE, "system", {"system": "Be kind."}),
}


@pytest.mark.parametrize("case", KEPT)
def test_d17_without_what_the_answer_depends_on_nobody_is_asked_again(house: House, case: str) -> None:
    protocol, model, unknown, more = KEPT[case]
    house.simulator.script({"unknown": [unknown]})
    before = house.received(model)

    for _ in range(2):
        answer = house.ask(protocol, model, **more)
        assert answer.status_code == 400
        assert unknown.replace("*", "0").split(".")[-1] in error_of(protocol, answer)["message"]
    assert sum(house.since(before, model).values()) == 2


def test_d17_the_strict_client_hears_the_vendor_s_own_words(tmp_path: Path) -> None:
    with running_house(tmp_path, 1, fast=False) as house:
        for answered in (400, 200, 400):
            headers = {"x-aicore-proxy-strict": "true"} if answered == 400 else {}
            asked = body("chat", GPT, "Hi", brand_new=1)
            answer = house.proxy.http.post("/v1/chat/completions", json=asked, headers=headers)
            assert answer.status_code == answered
            assert ("brand_new" in answer.text) is (answered == 400)


def test_d17_a_second_complaint_is_the_client_s_and_is_learned_too(tmp_path: Path) -> None:
    with running_house(tmp_path, 1, fast=False) as house:
        # Azure complains of unknown members before it looks at those below
        house.simulator.script({"unknown": ["tools.*.function.strict"]})
        before = house.received()
        answer = house.ask(brand_new=1, tools=TOOLS["chat"])
        assert answer.status_code == 400
        assert "strict" in error_of("chat", answer)["message"]
        assert house.since(before) == {"sub-0": 2}
        assert dropped(house.ask(brand_new=1, tools=TOOLS["chat"])) == ["brand_new", "tools.function.strict"]
        assert house.since(before) == {"sub-0": 3}


@pytest.mark.timed
def test_d17_one_worker_s_lesson_is_known_to_all(tmp_path: Path) -> None:
    with running_house(tmp_path, 1, fast=False, workers="3") as house:
        before = house.received()
        assert by_worker(house, 1, brand_new=1) == {200: 1}
        assert house.since(before) == {"sub-0": 2}
        time.sleep(0.5)
        assert by_worker(house, 30, brand_new=1) == {200: 30}
        assert house.since(before) == {"sub-0": 32}
