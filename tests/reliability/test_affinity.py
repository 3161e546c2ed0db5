"""Prompt-cache affinity: conversations stay where their prefix is cached, and that pays.

Figures for docs/reliability.md: ``AFFINITY_CONVERSATIONS=200 pytest -s tests/reliability/test_affinity.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.end_to_end.asking import CLAUDE
from tests.reliability.conftest import House, running_house

CONVERSATIONS = int(os.environ.get("AFFINITY_CONVERSATIONS", "24"))
TURNS = 8
MODEL = "anthropic--claude-4.5-sonnet"
MARK = {"type": "ephemeral"}


@pytest.fixture(scope="module")
def four_sticky(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_house(tmp_path_factory.mktemp("sticky"), strategy="auto") as house:
        yield house


async def conversation(http: aiohttp.ClientSession, number: int, turns: int, used: list[dict[str, int]]) -> None:
    """An agent's conversation, as coding tools hold it: its last turn marked, so that the next finds it cached."""
    system = [
        {"type": "text", "text": f"You are agent {number}. " + "Be exact and brief. " * 200, "cache_control": MARK}
    ]
    messages: list[dict[str, Any]] = []
    for turn in range(turns):
        text = {"type": "text", "text": f"Turn {turn}: " + "here is what the tool said. " * 40}
        messages.append({"role": "user", "content": [text]})
        marked = [*messages[:-1], {"role": "user", "content": [{**text, "cache_control": MARK}]}]
        asked = {"model": CLAUDE, "max_tokens": 100, "system": system, "messages": marked}
        async with http.post("/v1/messages", json=asked) as answer:
            value = await answer.json()
            assert answer.status == 200, value
        used.append(value["usage"])
        messages.append({"role": "assistant", "content": value["content"]})


async def share_from_cache(house: House, *, failing: bool = False) -> float:
    """Of all input tokens of many conversations, the share read from a cache. ``failing``: one of the four subaccounts
    goes down in the middle."""
    used: list[dict[str, int]] = []
    headers = {"Authorization": f"Bearer {house.proxy.key}"}
    async with aiohttp.ClientSession(house.proxy.url, headers=headers) as http:

        async def fail() -> None:
            while len(used) < CONVERSATIONS * TURNS // 2:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(house.simulator.script, {"status": 503}, "sub-0")

        async with asyncio.TaskGroup() as group:
            for number in range(CONVERSATIONS):
                group.create_task(conversation(http, number, TURNS, used))
            if failing:
                group.create_task(fail())
    totals: dict[str, int] = defaultdict(int)
    for usage in used:
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            totals[name] += usage[name]
    return totals["cache_read_input_tokens"] / sum(totals.values())


async def test_affinity_pays(tmp_path: Path) -> None:
    shares = {}
    for name, strategy, failing in (
        ("affinity", "affinity", False),
        ("affinity, one subaccount failing", "affinity", True),
        ("round robin", "round_robin", False),
        ("round robin, one subaccount failing", "round_robin", True),
    ):
        home = tmp_path / name.replace(" ", "-")
        home.mkdir()
        with running_house(home, fast=False, strategy=strategy) as house:
            shares[name] = await share_from_cache(house, failing=failing)
    print("".join(f"\n{name}: {share:.1%} of the input tokens from a cache" for name, share in shares.items()))

    assert shares["affinity"] > 0.75
    assert shares["affinity"] > shares["round robin"] + 0.25
    assert shares["affinity, one subaccount failing"] > shares["affinity"] - 0.15


def named(house: House, **headers: str) -> tuple[str, str]:
    """Where a request of a conversation went, and whether its prefix was there."""
    answer = house.proxy.http.post(
        "/v1/messages",
        json={"model": CLAUDE, "max_tokens": 10, "messages": [{"role": "user", "content": "Hello!"}]},
        headers=headers,
    )
    assert answer.status_code == 200
    return answer.headers["x-aicore-proxy-subaccount"], answer.headers["x-aicore-proxy-affinity"]


@pytest.mark.parametrize(
    "header",
    [
        "x-aicore-proxy-session", "x-claude-code-session-id", "session-id", "session_id", "thread-id",
        "x-opencode-session", "x-session-id", "x-session-affinity", "x-litellm-session-id", "x-parent-session-id",
    ],
)  # fmt: skip
def test_a_conversation_with_a_name_stays(four_sticky: House, header: str) -> None:
    homes = set()
    for number in range(12):
        name = f"{header}-{number}"
        first = named(four_sticky, **{header: name})
        again = {named(four_sticky, **{header: name}) for _ in range(3)}
        assert first[1] == "miss"
        assert again == {(first[0], "hit")}
        homes.add(first[0])
    assert len(homes) > 1


def test_sub_agents_stay_with_their_parent(four_sticky: House) -> None:
    for number in range(8):
        home, _ = named(four_sticky, **{"session-id": f"parent-{number}", "thread-id": f"parent-{number}"})
        assert named(four_sticky, **{"session-id": f"parent-{number}", "thread-id": "child"})[0] == home
        root, _ = named(four_sticky, **{"x-session-id": f"ses_child_{number}", "x-parent-session-id": f"root-{number}"})
        other = {"x-session-id": "ses_other", "x-parent-session-id": f"root-{number}"}
        assert named(four_sticky, **other)[0] == root


BODIES: list[dict[str, Any]] = [
    {"prompt_cache_key": "key-{}"},
    {"metadata": {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": "session-{}"})}},
    {"metadata": {"user_id": "user_abc_account__session_01234567-89ab-cdef-0123-4567890000{}"}},
    {"system": "The system prompt of conversation {}."},
]


@pytest.mark.parametrize("more", BODIES, ids=str)
def test_a_conversation_is_known_by_its_body(four_sticky: House, more: dict[str, Any]) -> None:
    """Later turns of the same conversation, marks moved, go where the first one went."""
    homes = set()
    for number in range(10, 22):
        told = json.loads(json.dumps(more).replace("{}", str(number)))
        first = {"type": "text", "text": "Hello!", "cache_control": MARK}
        turns = [
            [{"role": "user", "content": [first]}],
            [
                {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": [{"type": "text", "text": "And now?", "cache_control": MARK}]},
            ],
        ]
        if "prompt_cache_key" in told:
            path, asked = "/v1/chat/completions", {"model": "gpt-5", "messages": [{"role": "user", "content": "a"}]}
            bodies = [{**asked, **told}, {**asked, **told, "messages": [{"role": "user", "content": "b"}]}]
        else:
            path = "/v1/messages"
            bodies = [{"model": CLAUDE, "max_tokens": 10, "messages": messages, **told} for messages in turns]
        answers = [four_sticky.proxy.http.post(path, json=asked) for asked in bodies]
        assert [answer.headers["x-aicore-proxy-affinity"] for answer in answers] == ["miss", "hit"]
        assert len({answer.headers["x-aicore-proxy-subaccount"] for answer in answers}) == 1
        homes.add(answers[0].headers["x-aicore-proxy-subaccount"])
    assert len(homes) > 1


def test_claude_code_s_billing_block_moves_nothing(four_sticky: House) -> None:
    def asked(billing: str) -> tuple[str, str]:
        system = [
            {"type": "text", "text": f"x-anthropic-billing-header: cc={billing}"},
            {"type": "text", "text": "Be."},
        ]
        body = {"model": CLAUDE, "max_tokens": 10, "system": system, "messages": [{"role": "user", "content": "Hm?"}]}
        answer = four_sticky.proxy.http.post("/v1/messages", json=body)
        return answer.headers["x-aicore-proxy-subaccount"], answer.headers["x-aicore-proxy-affinity"]

    home, _ = asked("a")
    assert {asked(text) for text in "bcd"} == {(home, "hit")}


def test_a_conversation_spills_and_its_home_s_fault_is_not_seen(four_sticky: House) -> None:
    home, _ = named(four_sticky, session_id="spilling")
    four_sticky.simulator.script({"status": 429, "retry_after": 60}, home)

    refuge, _ = named(four_sticky, session_id="spilling")

    assert refuge != home
    assert named(four_sticky, session_id="spilling") == (refuge, "hit")
    four_sticky.simulator.clear()
