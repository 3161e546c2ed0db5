"""What a reload changes, what it says of it, and what is left of what was before."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicore_proxy.config.settings import KeySettings, ModelPatterns, Settings, SubaccountSettings
from aicore_proxy.gateway.keys import client_key
from aicore_proxy.sap.credentials import Secret, ServiceKey
from aicore_proxy.sap.scope import Scope
from aicore_proxy.server.compose import Proxy
from aicore_proxy.server.configuration import FIXED, Configuration, changes
from aicore_proxy.server.reload import marks

KEY = ServiceKey("eu", "sb-1", Secret("s3cr3t"), "http://127.0.0.1:9/oauth/token", "http://127.0.0.1:9", "zone")


def configuration(**chosen: Any) -> Configuration:
    keys = (client_key("main", "sk-main-1234"),)
    return Configuration(Settings(**chosen), keys, (KEY,), {"eu": Scope()}, direct=True)


async def test_nothing_of_a_generation_is_left_once_its_requests_are_done() -> None:
    proxy = Proxy(configuration())
    await proxy.start()
    try:
        tasks = len(proxy.supervisor)
        gone = []
        for number in range(20):
            gone.append(weakref.ref(proxy.landscape))
            now = configuration(body_limit=5000 + number)
            more = msgspec.structs.replace(KEY, name=f"us-{number}", client_id=f"sb-us-{number}", identity_zone_id="")
            await proxy.reload(msgspec.structs.replace(now, service_keys=(KEY, more)))
            assert proxy.settings.body_limit == 5000 + number
        await proxy.reload(configuration())
        await asyncio.sleep(0.5)
        gc.unfreeze()
        gc.collect()
        assert [ref for ref in gone[1:] if ref() is not None] == []
        # A token, a look at SAP and what they wait for
        assert len(proxy.supervisor) <= tasks + 4
    finally:
        await proxy.aclose()


NAMES = st.sampled_from(["eu", "us", "ap"])
SUBACCOUNTS = st.dictionaries(NAMES, st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 1)), max_size=3)
CLIENTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 5), max_size=3)


def built(subaccounts: Mapping[str, tuple[int, int, int]], clients: Mapping[str, int]) -> Configuration:
    """Subaccounts by zone, client id and secret; client keys by their value."""
    service_keys = tuple(
        msgspec.structs.replace(
            KEY, name=name, identity_zone_id=f"zone-{zone}", client_id=f"{name}-{zone}-{client}",
            client_secret=Secret(f"{secret}"),
        )
        for name, (zone, client, secret) in subaccounts.items()
    )  # fmt: skip
    keys = tuple(client_key(name, f"sk-{name}-{value}") for name, value in clients.items())
    return Configuration(Settings(), keys, service_keys, direct=True)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(SUBACCOUNTS, CLIENTS), min_size=2, max_size=8))
def test_any_course_of_reloads_keeps_what_stays_and_nothing_else(
    course: list[tuple[dict[str, tuple[int, int, int]], dict[str, int]]],
) -> None:
    async def run() -> None:
        proxy = Proxy(built(*course[0]))
        await proxy.start()
        try:
            for (before, _), (after, clients) in pairwise(course):
                old = dict(proxy._now.tokens)
                begun = proxy._now
                await proxy.reload(built(after, clients))
                tokens = proxy._now.tokens
                assert list(tokens) == list(after)
                assert dict(begun.tokens) == old, "requests that began keep theirs"
                for name, (zone, _, _) in after.items():
                    stays = name in before and before[name][0] == zone
                    assert (tokens[name] is old.get(name)) == stays
                assert [state.alias for state in proxy._discovery.states()] == list(after)
                right = {f"sk-{name}-{value}" for name, value in clients.items()}
                every = {f"sk-{name}-{value}" for name in "abc" for value in range(6)}
                assert {key for key in every if proxy._keys.named(key) is not None} == right
        finally:
            await proxy.aclose()

    asyncio.run(run())


async def test_a_configuration_that_cannot_be_used_changes_nothing() -> None:
    proxy = Proxy(configuration())
    try:
        before = proxy.configuration
        twice = msgspec.structs.replace(before, keys=(*before.keys, client_key("other", "sk-main-1234")))
        broken = msgspec.structs.replace(KEY, client_secret=Secret(), certificate="x", key=Secret("y"))
        for unusable in (
            twice,
            configuration(trusted_proxies=("10.0.0.0/99",)),
            msgspec.structs.replace(before, service_keys=(broken,)),
        ):
            with pytest.raises(ValueError):
                await proxy.reload(unusable)
            assert proxy.configuration is before
    finally:
        await proxy.aclose()


def test_changes_are_told_in_words_without_secrets() -> None:
    old = configuration(body_limit=5000, aliases={"fast": "gpt-5"}, port=3001, api_key="sk-old")
    new = Configuration(
        Settings(
            body_limit=6000,
            workers=4,
            api_key="sk-new",
            keys=(KeySettings("team", key="sk-team-1234"),),
            subaccounts=(SubaccountSettings("eu", {"clientsecret": "s3cr3t"}),),
        ),
        (client_key("main", "sk-main-5678"), client_key("team", "sk-team-1234")),
        (
            msgspec.structs.replace(KEY, client_id="sb-2", client_secret=Secret("rotated")),
            msgspec.structs.replace(KEY, name="us", client_id="sb-3"),
        ),
        {"eu": Scope(("default",), exclude=("gpt-4o",))},
    )
    told, fixed = changes(old, new)
    assert told == [
        "body_limit 5000 -> 6000",
        "aliases (fast)",
        "key team added",
        "key main: another value",
        "subaccount us added",
        "subaccount eu: new credentials",
        "subaccount eu: resource_groups",
        "subaccount eu: exclude",
    ]
    assert fixed == ["workers"]
    assert changes(new, new) == ([], [])
    narrowed = configuration(models=ModelPatterns(exclude=("gpt-*",)), trusted_proxies=("::1",))
    assert changes(configuration(), narrowed)[0] == ["trusted_proxies", "models (exclude)"]
    back, _ = changes(new, old)
    assert "key team removed" in back
    assert "subaccount us removed" in back
    limited = msgspec.structs.replace(old, keys=(client_key("main", "sk-main-1234", models=["gpt-*"], owner="a"),))
    assert changes(old, limited)[0] == ["key main: models", "key main: owner"]
    elsewhere = msgspec.structs.replace(old, service_keys=(msgspec.structs.replace(KEY, identity_zone_id="z2"),))
    assert changes(old, elsewhere)[0] == ["subaccount eu: new credentials"], "of the same client"


LIVE = {
    *(
        "api_key",
        "api_key_file",
        "metrics_key",
        "metrics_key_file",
        "keys",
        "trusted_proxies",
        "aliases",
        "models",
        "routing",
        "subaccounts",
    ),
    *("service_keys", "resource_groups", "discovery_interval", "survey_interval", "log_level"),
    *("body_limit", "connect_timeout", "first_byte_timeout", "stream_head_timeout", "between_bytes_timeout"),
    *("deadline", "hold", "keepalive", "body_gap_timeout", "max_requests", "body_memory"),
    *("max_attempts", "strategy", "breakers", "breaker_failures", "breaker_error_share", "breaker_open_time"),
    *("breaker_longest", "recovery_wait", "retry_share", "retry_always", "probe_interval", "explain"),
    *("deployment_limit", "adaptive_limit", "adaptive_start", "queue_length", "queue_wait"),
    *("record_keys", "record_until", "record_folder", "record_hours", "record_megabytes"),
}


def test_every_setting_takes_effect_by_a_reload_or_is_said_to_need_a_restart() -> None:
    """A new one belongs into one of the two: into Proxy.reload and LIVE, or into FIXED and docs/reload.md."""
    assert set(FIXED) | LIVE == set(Settings.__struct_fields__)
    assert not set(FIXED) & LIVE


def test_a_mark_is_of_what_a_link_leads_to(tmp_path: Path) -> None:
    first, second, link = tmp_path / "first", tmp_path / "second", tmp_path / "link"
    first.write_text("same")
    second.write_text("same")
    link.symlink_to(first)
    before = marks([link, tmp_path / "missing"])
    assert before[tmp_path / "missing"] is None
    assert marks([link, tmp_path / "missing"]) == before
    link.unlink()
    link.symlink_to(second)
    assert marks([link])[link] != before[link]
    folder = marks([tmp_path])
    (tmp_path / "third").touch()
    assert marks([tmp_path]) != folder


def test_the_page_names_every_setting_that_needs_a_restart() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reload.md").read_text()
    listed = page[page.index("Only a restart changes: `host`") :].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(FIXED)
