"""The config.json of the older proxies, in each shape they have had, read as it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from aicore_proxy.config.load import Loaded, load
from aicore_proxy.config.settings import KeySettings, ModelPatterns, SettingsError, SubaccountSettings

BASE = "https://api.ai.prod.eu-central-1.aws.ml.hana.ondemand.com/v2/inference/deployments"
KEY = {"clientid": "sb-a", "clientsecret": "b", "url": "https://c", "serviceurls": {"AI_API_URL": "https://d"}}


def read(folder: Path, content: dict[str, Any], cwd: Path | None = None) -> Loaded:
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "config.json").chmod(0o600)
    return load({}, cwd=cwd or folder, home=folder / "nobody", file=folder / "config.json" if cwd else None)


def keys_in(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(json.dumps({**KEY, "clientid": f"sb-{name}"}))


def test_one_account_at_the_top(tmp_path: Path) -> None:
    """pjq's first shape."""
    keys_in(tmp_path, "demokey.json")
    found = read(
        tmp_path,
        {
            "service_key_json": "demokey.json",
            "deployment_models": {
                "gpt-4o": [f"{BASE}/d1", f"{BASE}/d2/"],
                "gpt-4-32k": [f"{BASE}/d4/chat/completions?api-version=1"],
                "anthropic--claude-3.5-sonnet": [f"{BASE}/d5"],
            },
            "secret_authentication_tokens": ["first-token-of-ours", "second-token-of-ours", "first-token-of-ours"],
            "resource_group": "default",
            "port": 3001,
            "host": "127.0.0.1",
        },
    )
    settings = found.settings
    assert (settings.host, settings.port) == ("127.0.0.1", 3001)
    assert settings.keys == (
        KeySettings(name="token-1", key="first-token-of-ours"),
        KeySettings(name="token-2", key="second-token-of-ours"),
    )
    assert settings.subaccounts == (
        SubaccountSettings(
            name="default",
            service_key={**KEY, "clientid": "sb-demokey.json"},
            service_key_file="demokey.json",
            resource_groups=("default",),
            deployments={
                "gpt-4o": ("d1", "d2"),
                "gpt-4-32k": ("d4",),
                "anthropic--claude-3.5-sonnet": ("d5",),
            },
        ),
    )
    assert found.files == (tmp_path / "config.json", tmp_path / "demokey.json")
    assert len(found.notes) == 1
    assert "older proxy" in found.notes[0]


def test_several_accounts(tmp_path: Path) -> None:
    """pjq's and wl21st's shape: names without a vendor, ids beside URLs, filters in either spelling."""
    keys_in(tmp_path, "one.json", "two.json")
    content = {
        "model_filters": {"include_filters": ["^gpt-.*", ".*-sonnet$"], "exclude": ["^experimental-.*"], "mode": 1},
        "subAccounts": {
            "subAccount1": {
                "resource_group": "default",
                "service_key_json": "one.json",
                "deployment_ids": {" gpt-4o ": ["d123456789"]},
                "deployment_models": {"gpt-4o": [f"{BASE}/d0"], "3.7-sonnet": f"{BASE}/d3"},
                "timeout": 5,
            },
            "EU: second (test)": {"service_key_json": "two.json", "deployment_models": {"gpt-o3-mini": [f"{BASE}/d9"]}},
        },
        "secret_authentication_tokens": ["short", "a-token-long-enough", "with space inside", "$" + "{HOME}-is-none"],
        "port": 8080,
        "host": "0.0.0.0",
        "ca_cert_bundle": None,
        "debug": True,
    }
    found = read(tmp_path, content)

    settings = found.settings
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    first, second = settings.subaccounts
    assert first.deployments == {"gpt-4o": ("d0", "d123456789"), "3.7-sonnet": ("d3",)}
    assert (second.name, second.resource_groups) == ("EU- second -test", ("default",))
    assert settings.models == ModelPatterns(("re:^gpt-.*", "re:.*-sonnet$"), ("re:^experimental-.*",))

    def hashed(token: str) -> str:
        return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"

    # All tokens let in, also those that would be too weak as new keys; nothing in them is a reference
    assert [key.key or key.hash for key in settings.keys] == [
        hashed("short"),
        "a-token-long-enough",
        hashed("with space inside"),
        "$" + "{HOME}-is-none",
    ]
    notes = "\n".join(found.notes)
    for told in ("'ca_cert_bundle'", "SSL_CERT_FILE", "'debug'", "'timeout'", "'mode'", "tokens[0]", "called 'EU- sec"):
        assert told in notes


def test_subaccounts_of_one_service_key_are_one_with_several_resource_groups(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    account = {"service_key_json": "key.json", "deployment_models": {"gpt-4o": [f"{BASE}/d1"]}}
    accounts = {
        "one": account,
        "two": {**account, "resource_group": "team", "deployment_ids": {"gpt-4o": ["d2"], "4-sonnet": ["d3"]}},
        "three": {**account, "resource_group": 5},
    }
    content = {
        "subAccounts": {n: accounts[n] for n in ("one", "two")},
        "secret_authentication_tokens": ["a-good-token"],
    }
    found = read(tmp_path, {**content, "port": "3007"})
    assert found.settings.port == 3007
    (only,) = found.settings.subaccounts
    assert (only.name, only.resource_groups) == ("one", ("default", "team"))
    assert only.deployments == {"gpt-4o": ("d1", "d2"), "4-sonnet": ("d3",)}
    assert any("'two' has the service key of 'one'" in note for note in found.notes)

    content = {**content, "subAccounts": {"one": account, "x": {"resource_group": 5, **account, "deployment_ids": 1}}}
    with pytest.raises(SettingsError, match=r"subAccounts\.x\.deployment_models must be"):
        read(tmp_path, content)


def test_service_keys_are_looked_for_where_they_looked(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "cwd", tmp_path / "etc"
    elsewhere.mkdir()
    folder.mkdir()
    keys_in(elsewhere, "demokey.json")
    content = {"service_key_json": "demokey.json", "secret_authentication_tokens": ["a-token-long-enough"]}
    assert read(folder, content, elsewhere).files[1] == elsewhere / "demokey.json"
    keys_in(folder, "demokey.json")
    assert read(folder, content, elsewhere).files[1] == folder / "demokey.json"


def test_without_tokens_nobody_is_let_in_unasked(tmp_path: Path) -> None:
    keys_in(tmp_path, "demokey.json")
    found = read(tmp_path, {"service_key_json": "demokey.json", "secret_authentication_tokens": []})
    assert found.settings.keys == ()
    assert any("makes one" in note for note in found.notes)
    with pytest.raises(SettingsError, match="lets others in"):
        read(tmp_path, {"service_key_json": "demokey.json", "secret_authentication_tokens": [], "host": "0.0.0.0"})


def test_a_broken_one_is_told_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"subAccounts": {},\n \\"port\\": 3001}')
    with pytest.raises(SettingsError) as caught:
        load({}, cwd=tmp_path, home=tmp_path)
    assert caught.value.problems[0].startswith(f"{tmp_path}/config.json:2: not valid JSON")


def test_what_is_wrong_is_told_in_the_words_of_the_file(tmp_path: Path) -> None:
    keys_in(tmp_path, "good.json")
    account = {"service_key_json": "good.json", "resource_group": ["x"], "deployment_models": {"m": []}}
    bad = {
        "subAccounts": {"a": {"service_key_json": "none.json"}, "b": 1, "c d": account},
        "model_filters": {"include": ["("]},
        "secret_authentication_tokens": ["a-good-token", 5],
        "port": "x",
    }
    (tmp_path / "config.json").write_text(json.dumps(bad, indent="\t"))
    with pytest.raises(SettingsError) as caught:
        load({}, cwd=tmp_path, home=tmp_path)
    first, *others = [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]
    assert first.startswith("config.json:4: subAccounts.a.service_key_json is no use: none.json: cannot be read: No")
    assert others == [
        "config.json:6: subAccounts.b must be names with values.",
        "config.json:9: subAccounts.c d.resource_group must be a text.",
        "config.json:19: model_filters.include[0] is not a regular expression after re:.",
        "config.json:24: secret_authentication_tokens[1] must be a text.",
        "config.json:26: port must be a whole number.",
    ]
    bad = {"service_key_json": "none.json", "secret_authentication_tokens": ["a-good-token"]}
    with pytest.raises(SettingsError, match="json:1: service_key_json is no use"):
        read(tmp_path, bad)
