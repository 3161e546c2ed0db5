"""What a 400 says that a deployment does not take, in each vendor's words, and the body without it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.backends import Ask, Prepared
from aicore_proxy.backends.aws_bedrock import AwsBedrock
from aicore_proxy.backends.lessons import KEPT, LASTS, MOST, MOST_DEPLOYMENTS, Lessons, Taught
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault, Kind

JSON = dict[str, Any]


class Row(NamedTuple):
    """A vendor's words, a body, the body that the deployment is asked with then, and what the client is told."""

    words: str
    body: JSON
    then: JSON
    told: list[str]


TEXT = {"type": "text", "text": "Hi"}
EXTRA = "Extra inputs are not permitted"
ROWS = {
    "Anthropic": Row(f"foo: {EXTRA}", {"foo": 1, "a": 2}, {"a": 2}, ["foo"]),
    "Anthropic, several": Row(f"foo: {EXTRA}\nbar: {EXTRA}", {"foo": 1, "bar": None, "a": 2}, {"a": 2}, ["foo"]),
    "Anthropic, in a list, named by the first": Row(
        f"tools.1.custom.defer_loading: {EXTRA}",
        {"tools": [{"name": "f"}, {"name": "g", "defer_loading": True}, {"name": "h", "defer_loading": False}]},
        {"tools": [{"name": "f"}, {"name": "g"}, {"name": "h"}]},
        ["tools.defer_loading"],
    ),
    "Anthropic, a case of a union: in the blocks of that type alone": Row(
        f"messages.0.content.0.text.citations: {EXTRA}",
        {"messages": [{"content": [{**TEXT, "citations": []}, {"type": "document", "citations": {"enabled": True}}]}]},
        {"messages": [{"content": [TEXT, {"type": "document", "citations": {"enabled": True}}]}]},
        ["messages.content.citations"],
    ),
    "Anthropic, a case by a member's type": Row(
        f"thinking.adaptive.display: {EXTRA}",
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        {"thinking": {"type": "adaptive"}},
        ["thinking.display"],
    ),
    "Anthropic, nothing left of the member": Row(f"output_config.effort: {EXTRA}",
        {"output_config": {"effort": "high"}, "a": 1}, {"a": 1}, ["output_config.effort"]),
    "Anthropic, deprecated": Row("`temperature` is deprecated for this model.", {"temperature": 1}, {},
        ["temperature"]),
    "Bedrock": Row("Malformed input request: #: extraneous key [foo] is not permitted, please reformat your input.",
        {"foo": 1}, {}, ["foo"]),
    "Bedrock, below": Row("Malformed input request: #/inferenceConfig: extraneous key [topK] is not permitted",
        {"inferenceConfig": {"topK": 1, "topP": 1}}, {"inferenceConfig": {"topP": 1}}, ["inferenceConfig.topK"]),
    "Azure": Row("Unrecognized request argument supplied: foo", {"foo": 1, "a": 2}, {"a": 2}, ["foo"]),
    "Azure, several": Row("Unrecognized request arguments supplied: foo, bar", {"foo": 1, "bar": 2}, {},
        ["foo", "bar"]),
    "Azure, a member with the name of its part's type": Row(
        "Unknown parameter: 'messages[0].content[0].image_url.foo'.",
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "u", "foo": 1}}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        ["messages.content.image_url.foo"]),
    "Azure, below": Row("Unknown parameter: 'messages[0].foo'.", {"messages": [{"foo": 1, "role": "user"}]},
        {"messages": [{"role": "user"}]}, ["messages.foo"]),
    "Azure, of this model": Row("Unsupported parameter: 'top_p' is not supported with this model.", {"top_p": 1}, {},
        ["top_p"]),
    "Azure, by another name": Row(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        {"max_tokens": 5}, {"max_completion_tokens": 5}, []),
    "Azure, by another name that is there": Row(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        {"max_tokens": 5, "max_completion_tokens": 6}, {"max_completion_tokens": 6}, []),
    "Azure, all values but one": Row(
        "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is "
        "supported.",
        {"temperature": 0.5}, {}, ["temperature"]),
    "Google": Row('Invalid JSON payload received. Unknown name "foo": Cannot find field.', {"foo": 1}, {}, ["foo"]),
    "Google, below, in its own spelling": Row(
        "Invalid JSON payload received. Unknown name \"top_x\" at 'generation_config': Cannot find field.",
        {"generationConfig": {"topX": 1, "topP": 1}}, {"generationConfig": {"topP": 1}}, ["generationConfig.topX"]),
}  # fmt: skip


def bad(words: str, status: int = 400) -> Fault:
    return Fault(Kind.MALFORMED, words, status=status)


def prepared(body: JSON, betas: tuple[str, ...] = ()) -> Prepared:
    return Prepared("/", json.dumps(body).encode(), betas=betas)


def applied(lessons: Lessons, body: JSON, now: float = 0.0, deployment: str = "d") -> tuple[JSON, list[str]]:
    told = lessons.applied(deployment, prepared(body), "x", now)
    assert all(loss.harmless for loss in told.losses)
    return json.loads(told.body), [loss.field for loss in told.losses]


@pytest.mark.parametrize("name", ROWS)
def test_the_body_without_what_the_vendor_names(name: str) -> None:
    row, lessons = ROWS[name], Lessons()
    names = lessons.learn("d", prepared(row.body), bad(row.words), 0.0)
    assert set(row.told) <= set(names)
    assert applied(lessons, row.body) == (row.then, row.told)
    # of what is not there nothing is said, and of others nothing is known
    assert applied(lessons, row.then) == (row.then, [])
    assert applied(lessons, row.body, deployment="e") == (row.body, [])


@pytest.mark.parametrize("name", ROWS)
def test_other_statuses_teach_nothing(name: str) -> None:
    row, lessons = ROWS[name], Lessons()
    for status in (401, 404, 429, 500):
        assert lessons.learn("d", prepared(row.body), bad(row.words, status), 0.0) == ()
    assert applied(lessons, row.body) == (row.body, [])


def test_of_a_value_that_is_refused_only_that_value_goes() -> None:
    lessons = Lessons()
    words = (
        "Unsupported value: 'reasoning_effort' does not support 'minimal' with this model. Supported values are: 'low'."
    )
    assert lessons.learn("d", prepared({"reasoning_effort": "minimal"}), bad(words), 0.0) == ("reasoning_effort",)
    assert applied(lessons, {"reasoning_effort": "minimal"}) == ({}, ["reasoning_effort"])
    assert applied(lessons, {"reasoning_effort": "low"}) == ({"reasoning_effort": "low"}, [])


@pytest.mark.parametrize("name", sorted(KEPT))
def test_what_the_answer_depends_on_is_never_left_out(name: str) -> None:
    lessons = Lessons()
    for words, body in (
        (f"{name}: {EXTRA}", {name: 1}),
        (f"tools.0.{name}: {EXTRA}", {"tools": [{name: 1}]}),
        (f"Unrecognized request argument supplied: {name}", {name: 1}),
    ):
        assert lessons.learn("d", prepared(body), bad(words), 0.0) == ()
        assert applied(lessons, body) == (body, [])


@pytest.mark.parametrize(
    "words",
    [
        f"nobody: {EXTRA}",
        f"tools.7.foo: {EXTRA}",
        f"tools.foo: {EXTRA}",
        f"tools.0: {EXTRA}",
        f"foo.bar.baz: {EXTRA}",
        "Unsupported value: 'tools[0].foo' does not support 'x' with this model.",
        "max_tokens: Field required",
        "messages: at least one message is required",
        "invalid beta flag",
        f"max_tokens: Input should be a valid integer, not 'foo: {EXTRA}'",
        f"Invalid value at 'max_tokens', \"x\nfoo: {EXTRA}",
        "prompt is too long: 214038 tokens > 200000 maximum",
    ],
)
def test_other_words_teach_nothing(words: str) -> None:
    body = {"foo": 1, "tools": [{"foo": {"bar": 1}}], "max_tokens": 1, "messages": []}
    assert Lessons().learn("d", prepared(body), bad(words), 0.0) == ()


def test_flags_that_are_named_are_those_and_others_all_that_were_not_taken_before() -> None:
    lessons, sent = Lessons(), ("old", "new", "newer")
    lessons.took("d", ("old",))
    named = "Unexpected value(s) `new` for the `anthropic-beta` header."
    assert lessons.learn("d", prepared({}, sent), bad(named), 0.0) == ("new",)
    assert lessons.refused_flags("d", 0.0) == {"new"}
    assert lessons.refused_flags("e", 0.0) == frozenset()
    assert lessons.learn("d", prepared({}, ("old", "newer")), bad("invalid beta flag"), 0.0) == ("newer",)
    # it took that once, and does no more
    assert lessons.learn("d", prepared({}, ("old",)), bad("invalid beta flag"), 0.0) == ("old",)
    assert lessons.refused_flags("d", 0.0) == {"new", "newer", "old"}
    assert lessons.refused_flags("d", LASTS + 1) == frozenset()


def test_what_needs_a_refused_flag_goes_with_it() -> None:
    deployment = Deployment("d", "s", "default", "aws-bedrock", "anthropic--claude-4.8-opus", "")
    body = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind."}],
        "max_tokens": 100,
        "output_config": {"effort": "high"},
        "context_management": {"edits": []},
    }
    envelope = Envelope.parse(json.dumps(body).encode())
    flags = ("context-management-2025-06-27",)
    before = AwsBedrock().relayed(envelope, deployment, Ask(betas=flags))
    assert len(before.betas) == 3
    assert json.loads(before.body)["anthropic_beta"] == list(before.betas)

    after = AwsBedrock().relayed(envelope, deployment, Ask(betas=flags, refused=frozenset(before.betas)))
    assert after.betas == ()
    assert json.loads(after.body).keys() == {"messages", "max_tokens", "anthropic_version"}
    assert [message["role"] for message in json.loads(after.body)["messages"]] == ["user"]
    assert "Be kind." in after.body.decode()
    assert {"context_management", "output_config.effort"} <= {loss.field for loss in after.losses}


def test_a_lesson_holds_for_an_hour_and_few_are_kept() -> None:
    lessons = Lessons()
    told: list[Taught] = []
    lessons.tell = told.append
    for number in range(3 * MOST):
        lessons.learn("d", prepared({f"m{number}": 1}), bad(f"m{number}: {EXTRA}"), float(number))
    kept = [number for number in range(3 * MOST) if applied(lessons, {f"m{number}": 1}, 3.0 * MOST)[0] == {}]
    assert kept == list(range(2 * MOST, 3 * MOST))
    assert applied(lessons, {f"m{kept[0]}": 1}, kept[0] + LASTS - 1)[0] == {}
    assert applied(lessons, {f"m{kept[0]}": 1}, kept[0] + LASTS + 1)[0] != {}
    for number in range(MOST_DEPLOYMENTS):
        lessons.took(f"e{number}", ("flag",))
    assert applied(lessons, {f"m{kept[-1]}": 1}, 0.0)[0] != {}
    # another worker learns the same from what it is told
    other = Lessons()
    for taught in told:
        other.heard(taught, 0.0)
    assert applied(other, {f"m{kept[-1]}": 1}) == ({}, [f"m{kept[-1]}"])


names = st.sampled_from(["tools", "foo", "type", "text", "0", "*", "[]", "<x>", "", "é", "\n", "a.b"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
paths = st.lists(names, min_size=1, max_size=5)


@given(
    body=st.dictionaries(names, values, max_size=5),
    path=paths,
    words=st.sampled_from([f"{{}}: {EXTRA}", "Unknown parameter: '{}'.",
                           "Unknown name \"foo\" at '{}': Cannot find field.",
                           "Unsupported value: '{}' does not support 'x' with this model."]),
)  # fmt: skip
def test_whatever_is_said_of_whatever_body_nothing_fails_and_only_what_is_named_goes(
    body: JSON, path: list[str], words: str
) -> None:
    lessons = Lessons()
    named = lessons.learn("d", prepared(body), bad(words.format(".".join(path))), 0.0)
    then, told = applied(lessons, body)
    assert (then != body) <= bool(named)
    assert set(told) <= set(named)
    assert leaves(then) <= leaves(body)
    # what was learned is not there any more: the deployment is not asked the same again
    assert lessons.learn("d", prepared(then), bad(words.format(".".join(path))), 0.0) == () or words.startswith("Unk")


def leaves(value: Any) -> int:
    match value:
        case dict():
            return sum(map(leaves, value.values())) + len(value)
        case list():
            return sum(map(leaves, value))
        case _:
            return 1
