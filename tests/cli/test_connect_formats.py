"""Settings files keep what is theirs: comments, order, members that nobody here knows."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.cli.connect.edit import Edit, FormatError, edited
from aicore_proxy.cli.connect.formats import FORMATS


def merge(form: str, text: str, *edits: tuple[tuple[str, ...], Any]) -> str:
    return FORMATS[form].merge(text, [Edit(path, value) for path, value in edits])


JSONC = """\
// mine
{
    "theme": "dark", /* of course */
    "env": {
        "A": "1", // one
        "B": "2"
    }, // the environment
    "list": [1, 2,],
}
"""


def test_jsonc_keeps_comments_order_and_indentation() -> None:
    changed = merge(
        "jsonc", JSONC, (("env", "A"), "9"), (("env", "C"), "3"), (("env", "B"), None), (("new", "deep"), {"x": [1]})
    )
    assert (
        changed
        == """\
// mine
{
    "theme": "dark", /* of course */
    "env": {
        "A": "9", // one
        "C": "3"
    }, // the environment
    "list": [1, 2,],
    "new": {
        "deep": {
            "x": [
                1
            ]
        }
    }
}
"""
    )


@pytest.mark.parametrize(
    ("before", "edit", "after"),
    [
        ("", (("a",), 1), '{\n  "a": 1\n}\n'),
        (" \n", (("a",), 1), '{\n  "a": 1\n}\n'),
        ("{}", (("a",), 1), '{\n  "a": 1\n}'),
        ("{ }\n", (("a", "b"), 1), '{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ('{"x": 1}', (("a",), {"b": 2}), '{"x": 1, "a": {"b": 2}}'),
        ('{\r\n\t"x": 1\r\n}\r\n', (("a",), 2), '{\r\n\t"x": 1,\r\n\t"a": 2\r\n}\r\n'),
        ('{"a": 1, "b": 2, "c": 3}', (("b",), None), '{"a": 1, "c": 3}'),
        ('{"a": 1, "b": 2}', (("b",), None), '{"a": 1}'),
        ('{"a": 1}', (("a",), None), "{}"),
        ('{"a": 1, "a": 2}', (("a",), 3), '{"a": 1, "a": 3}'),
        ('{"env": null}', (("env", "A"), "1"), '{"env": {\n  "A": "1"\n}}'),
        ('{"env": null}', (("env", "A"), None), '{"env": null}'),
        ('{"a": "ü"}', (("a",), "ü"), '{"a": "ü"}'),
        ('\ufeff{"a": 1}', (("a",), 2), '\ufeff{"a": 2}'),
    ],
)
def test_json_in_every_shape(before: str, edit: tuple[tuple[str, ...], Any], after: str) -> None:
    assert merge("json", before, edit) == after


@pytest.mark.parametrize(
    ("form", "text", "words"),
    [
        ("json", '{"a": 1,}', "is not valid JSON: a name in double quotes is missing in line 1, column 9"),
        ("json", '{"a": 1} // no', "is not valid JSON: something follows the end in line 1, column 10"),
        ("json", '{\n  "a": 1\n  "b": 2\n}', "is not valid JSON: a comma is missing in line 3, column 3"),
        ("json", "{a: 1}", "is not valid JSON: a name in double quotes is missing in line 1, column 2"),
        ("json", '{"a": tru}', "is not valid JSON: a value is missing in line 1, column 7"),
        ("json", "[]", "holds something else than settings at its top"),
        ("json", '{"env": "A=1"}', "holds something else than settings at env"),
        ("json", "[" * 5000, "is not valid JSON: it is nested too deeply in line 1, column 102"),
        ("jsonc", '{"a": /* 1}', "is not valid JSON with comments: a value is missing in line 1, column 7"),
        ("yaml", "a: [1\n", "is not valid YAML"),
        ("yaml", "- 1\n", "holds something else than settings at its top"),
        ("yaml", "{a: 1}\n", "is written in a way that cannot be changed safely"),
        ("yaml", "a: 1\n---\nb: 1\n", "is not valid YAML"),
        ("toml", "a = \n", "is not valid TOML"),
    ],
)
def test_what_is_not_valid_is_told_where(form: str, text: str, words: str) -> None:
    with pytest.raises(FormatError) as caught:
        merge(form, text, (("env", "A") if form == "json" else ("env",), "1"))
    assert str(caught.value).startswith(words)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\/*é \n', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)
EDITS = st.lists(
    st.builds(Edit, st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(tuple), VALUES), max_size=4
)


@given(OBJECTS, EDITS, st.sampled_from([None, 0, 1, 2, 4, "\t"]), st.booleans())
def test_any_json_means_afterwards_what_was_asked(value: Any, edits: list[Edit], indent: Any, commented: bool) -> None:
    text = json.dumps(value, indent=indent)
    if commented and indent is not None:
        text = text.replace("\n", " // why, {not}\n").replace("{", "{/* , */") + "\n// the end"
        text = text if '"' not in text else json.dumps(value, indent=indent)  # a comment inside a text is none
    try:
        wanted = edited(value, edits)
        again = edited(wanted, edits)
    except FormatError:
        return
    changed = FORMATS["jsonc"].merge(text, edits)
    assert FORMATS["jsonc"].read(changed) == wanted
    if again == wanted and len(edits) == 1:
        assert FORMATS["jsonc"].merge(changed, edits) == changed


@given(st.text('{}[],:"/*\\ \nab1', max_size=30), EDITS)
def test_any_text_is_edited_or_refused_in_words(text: str, edits: list[Edit]) -> None:
    for form in ("json", "jsonc"):
        with contextlib.suppress(FormatError):
            FORMATS[form].read(FORMATS[form].merge(text, edits))


YAML = """\
# mine
model: gpt-4o   # the old one
openai-api-base: 'https://api.openai.com/v1'

read:
  - CONVENTIONS.md
  # more
auto-commits: false
"""


def test_yaml_keeps_comments_and_order() -> None:
    changed = merge(
        "yaml", YAML, (("model",), "openai/x"), (("read",), None), (("openai-api-base",), "http://h:1/v1"),
        (("dark",), True), (("odd",), "yes"),
    )  # fmt: skip
    assert (
        changed
        == """\
# mine
model: openai/x   # the old one
openai-api-base: http://h:1/v1

  # more
auto-commits: false
dark: true
odd: "yes"
"""
    )


@given(
    st.dictionaries(st.sampled_from(["a", "b-c", "d"]), VALUES, max_size=3),
    st.dictionaries(
        st.sampled_from(["a", "b-c", "e"]), st.none() | st.booleans() | st.text("ab:#'\"é /", max_size=6), max_size=3
    ),
)
def test_any_yaml_means_afterwards_what_was_asked_or_is_refused(value: Any, wanted: dict[str, Any]) -> None:
    edits = [Edit((name,), new) for name, new in wanted.items()]
    text = yaml.safe_dump(value, default_flow_style=False) if value else "# nothing yet\n"
    try:
        changed = FORMATS["yaml"].merge(text, edits)
    except FormatError:
        return
    assert (yaml.safe_load(changed) or {}) == edited(value, edits)
    assert FORMATS["yaml"].merge(changed, edits) == changed


TOML = """\
# mine
model = "o3"  # old
approval = "never"

[model_providers.proxy]
base_url = "http://old"

[mcp.x]
command = "y"
"""


def test_toml_keeps_comments_and_other_tables() -> None:
    table = {"base_url": "http://h/v1", "env_key": "K"}
    changed = merge(
        "toml", TOML, (("model",), "gpt-5"), (("provider",), "proxy"), (("model_providers", "proxy"), table),
        (("model_providers", "other"), {"n": 1}),
    )  # fmt: skip
    assert (
        changed
        == """\
# mine
model = "gpt-5"
approval = "never"

provider = "proxy"
[model_providers.proxy]
base_url = "http://h/v1"
env_key = "K"

[mcp.x]
command = "y"

[model_providers.other]
n = 1
"""
    )
    assert merge("toml", changed, (("model_providers", "proxy"), table)) == changed
    assert merge("toml", TOML, (("model_providers", "proxy"), None)) == TOML.replace(
        '[model_providers.proxy]\nbase_url = "http://old"\n\n', ""
    )


def test_env_keeps_the_other_lines() -> None:
    text = "# mine\nexport OPENAI_API_KEY=old\nX='1 2'\nOPENAI_API_KEY=older\nGONE=1"
    changed = merge("env", text, (("OPENAI_API_KEY",), "sk-1"), (("GONE",), None), (("URL",), "http://h/a b"))
    assert changed == "# mine\nX='1 2'\nOPENAI_API_KEY=sk-1\nURL='http://h/a b'\n"
    assert merge("env", changed, (("OPENAI_API_KEY",), "sk-1")) == changed
    assert FORMATS["env"].read(changed) == {"X": "'1 2'", "OPENAI_API_KEY": "sk-1", "URL": "'http://h/a b'"}
