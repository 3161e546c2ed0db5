"""Whatever a file holds: settings or a SettingsError, never another end; and what is written reads back as the same."""

from __future__ import annotations

import json
import string
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.config.test_imports import LITELLM, ROUTER

from aicore_proxy.config.document import read_document
from aicore_proxy.config.imports import imported
from aicore_proxy.config.load import Loaded, load
from aicore_proxy.config.render import dump, masked
from aicore_proxy.config.settings import Settings, SettingsError
from aicore_proxy.sap.credentials import CredentialsError
from aicore_proxy.server.configuration import find_credentials, load_telling_all

FULL = {
    "host": "127.0.0.1",
    "port": 3001,
    "hold": 2.5,
    "openapi": False,
    "resource_groups": ["default", "team"],
    "trusted_proxies": ["10.0.0.0/8"],
    "subaccounts": [
        {
            "name": "eu",
            "service_key": {
                "clientid": "a",
                "clientsecret": "${SECRET:-x}",
                "serviceurls": {"AI_API_URL": "https://x"},
            },
            "resource_groups": ["default"],
            "deployments": {"our-gpt": ["d1", "d2"]},
            "include": ["gpt-*", "re:^claude"],
        },
        {"name": "us", "service_key": {"clientid": "b"}},
    ],
    "keys": [
        {"name": "a", "key": "a-key-of-a-team", "models": ["gpt-*"], "owner": "me"},
        {"name": "b", "hash": "sha256:" + "0" * 64},
    ],
    "aliases": {"fast": "gpt-5-mini"},
    "models": {"include": ["*"], "exclude": ["gpt-4*"]},
    "routing": {"strategies": {"gpt-*": "round_robin"}, "weights": {"eu": 2}, "tiers": {"us": 1}, "limits": {"d1": 5}},
    "adaptive_start": 9,
}
LEGACY = {
    "subAccounts": {
        "a": {"resource_group": "default", "service_key_json": "k.json", "deployment_models": {"m": ["u/d1"]}}
    },
    "model_filters": {"include": ["^gpt"]},
    "secret_authentication_tokens": ["a-token-of-ours"],
    "port": 3001,
}
SOURCES: list[dict[str, Any]] = [FULL, LEGACY, yaml.safe_load(LITELLM), yaml.safe_load(ROUTER)]
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(max_size=12) | st.sampled_from(
    ["${X}", "${", "$${X}", "re:(", "~x/y", "a\0b", "\ud800", "*a", "<<", "1e9"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for step, given in inner for place in places(given, (*at, step)))]


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[at[0]] = put(value[at[0]], at[1:], new)
    return copied


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A good configuration with one to three values that are something else, or beside something unknown."""
    value: Any = draw(st.sampled_from(SOURCES))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(places(value)))
        value = put(value, at, draw(values))
    return value


def either(content: bytes, suffix: str) -> Loaded | SettingsError:
    """What comes of a file; anything but the two breaks the test. So do the imports."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / f"x{suffix}"
        file.write_bytes(content)
        with suppress(SettingsError):
            assert imported(read_document(file), file.parent).text("x").encode()
        try:
            environ = {"SECRET": "x", "HOME": str(file.parent)}
            loaded = load_telling_all(environ, file=file)
        except SettingsError as error:
            refused = error
        else:
            refused = None
            with suppress(CredentialsError):
                find_credentials(loaded, environ, file.parent)
        if refused is not None:
            assert refused.problems
            assert all(problem.isprintable() for problem in refused.problems), refused.problems
            return refused
        assert json.dumps(masked(loaded.settings)).encode()
        assert msgspec.json.decode(msgspec.json.encode(loaded.settings), type=Settings) == loaded.settings
        return loaded


@QUICK
@given(mutated())
def test_mutated_files(value: Any) -> None:
    either(json.dumps(value).encode(), ".json")
    if isinstance(value, dict):
        either(yaml.safe_dump(json.loads(json.dumps(value)), allow_unicode=False).encode(), ".yaml")


@QUICK
@given(values | st.dictionaries(st.sampled_from([*Settings.__struct_fields__, "subAccounts"]), values, max_size=4))
def test_arbitrary_values(value: Any) -> None:
    either(json.dumps(value).encode(), ".json")


@QUICK
@given(st.text(alphabet="abk:-[]{}&*!|>'\"#%@`,?<\n\t =.0123~$\\é", max_size=60), st.binary(max_size=40))
def test_arbitrary_text(text: str, content: bytes) -> None:
    for given_ in (text.encode(), content):
        either(given_, ".yaml")
        either(given_, ".json")


@QUICK
@given(st.data())
def test_bytes_changed_in_a_good_file(data: st.DataObject) -> None:
    content = bytearray(yaml.safe_dump(data.draw(st.sampled_from(SOURCES))).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    either(bytes(content), ".yaml")


# --- what is written reads back as the same

words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(lambda text: text.strip())
names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=10)
keys_ = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=20).filter(
    lambda key: not key.lower().startswith("sha256:")
)
patterns = st.sampled_from(["gpt-*", "re:^claude", "1e5", "0012", "yes", "null", "~", "=", "<<", "*", "&a", "${X}"])


@st.composite
def good(draw: st.DrawFn) -> Settings:
    """Settings that may be: of each kind of value some."""
    accounts = draw(st.lists(names, max_size=2, unique=True))
    several = st.lists(patterns, max_size=2).map(tuple)
    subaccounts = [
        {
            "name": name,
            "service_key": draw(st.dictionaries(words, words | st.dictionaries(words, words, max_size=2), max_size=3)),
            "resource_groups": draw(st.lists(words, max_size=2)),
            "deployments": draw(st.dictionaries(names, st.lists(names, min_size=1, max_size=2), max_size=2)),
            "include": draw(several),
            "exclude": draw(several),
        }
        for name in accounts
    ]
    given = draw(st.lists(keys_, max_size=3, unique=True))
    keys = [
        {"name": f"k{number}", "key": key, "owner": draw(words), "models": draw(several)}
        for number, key in enumerate(given)
    ]
    plain = {
        "port": draw(st.integers(0, 65535)),
        "api_key": draw(st.just("") | keys_),
        "metrics_key": draw(st.just("") | keys_),
        "hold": draw(st.floats(1e-6, 1e8)),
        "openapi": draw(st.booleans()),
        "cors_origins": draw(words | st.just("")),
        "strategy": draw(st.sampled_from(["auto", "weighted"])),
        "resource_groups": draw(st.lists(words, max_size=2)),
        "subaccounts": subaccounts,
        "keys": keys,
        "aliases": {f"a-{name}": f"m-{name}" for name in draw(st.lists(names, max_size=2, unique_by=str.lower))},
        "models": {"include": draw(several), "exclude": draw(several)},
        "routing": {"weights": draw(st.dictionaries(names, st.floats(0, 1e5), max_size=2))},
    }
    return msgspec.convert(plain, Settings)


@QUICK
@given(good())
def test_what_is_dumped_is_loaded_as_the_same(chosen: Settings) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "x.yaml"
        file.write_text(dump(chosen), encoding="utf-8")
        assert msgspec.to_builtins(load({}, file=file).settings) == msgspec.to_builtins(chosen)


def test_the_good_ones_are_good(tmp_path: Path) -> None:
    assert isinstance(either(json.dumps(FULL).encode(), ".json"), Loaded)
    assert isinstance(either(yaml.safe_dump(FULL).encode(), ".yaml"), Loaded)
    with pytest.raises(AssertionError):
        assert isinstance(either(b"port: x", ".yaml"), Loaded)
