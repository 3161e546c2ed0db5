"""What must not go up in a Gemini client's own contents: taken out, and nothing else changed."""

from __future__ import annotations

from typing import Any

import pytest

from aicore_proxy.protocol.dialects.gemini.parts import BYPASS
from aicore_proxy.protocol.dialects.gemini.relay import cleaned
from aicore_proxy.protocol.neutral import Seal
from aicore_proxy.protocol.seal import restore, wrap

CALL = {"name": "f", "args": {}}
FOREIGN = wrap(Seal("claude", "s"))
OWN = "b3du"


def of(*parts: Any) -> dict[str, Any]:
    return {"role": "model", "parts": [*parts]}


@pytest.mark.parametrize("name", ["functionCall", "function_call", "functionResponse", "function_response"])
def test_ids_of_calls_and_results_go(name: str) -> None:
    assert cleaned([of({name: {**CALL, "id": "1"}}, {"text": "x"})], signed_calls=False) == [
        of({name: CALL}, {"text": "x"})
    ]


@pytest.mark.parametrize("name", ["thoughtSignature", "thought_signature"])
@pytest.mark.parametrize(
    ("part", "left"),
    [
        ({"text": "x"}, [{"text": "x"}]),
        ({"functionCall": CALL}, [{"functionCall": CALL}]),
        ({"text": "hm", "thought": True}, []),
        ({"text": ""}, []),
    ],
)
def test_seals_of_other_families_go_and_thoughts_with_them(name: str, part: dict[str, Any], left: list[Any]) -> None:
    assert cleaned([of({**part, name: FOREIGN}, {"text": "y"})], signed_calls=False) == [of(*left, {"text": "y"})]
    assert cleaned([of({**part, name: FOREIGN})], signed_calls=False) == ([of(*left)] if left else [])
    own = [of({**part, name: OWN})]
    assert cleaned(own, signed_calls=False) is own


@pytest.mark.parametrize("name", ["functionCall", "function_call"])
def test_the_first_call_without_a_signature_skips_the_check(name: str) -> None:
    unsigned, signed = {name: CALL}, {name: CALL, "thought_signature": OWN}
    sealed = {name: CALL, "thoughtSignature": BYPASS}

    assert cleaned([of({"text": "x"}, unsigned, unsigned)], signed_calls=True) == [of({"text": "x"}, sealed, unsigned)]
    assert cleaned(of({**unsigned, "thoughtSignature": FOREIGN}), signed_calls=True) == [of(sealed)]
    for nothing in ([of(signed, unsigned)], [of({"text": "x"})]):
        assert cleaned(nothing, signed_calls=True) is nothing


@pytest.mark.parametrize("odd", ["x", None, [], [5], [{}], [{"parts": []}], [{"parts": 5}], [{"parts": [5, {}]}], {}])
def test_what_is_malformed_is_left_for_the_upstream_to_name(odd: Any) -> None:
    assert cleaned(odd, signed_calls=True) is odd


@pytest.mark.parametrize("value", ["é", "%", "/w", "☃" * 9])
def test_what_only_looks_like_a_seal_of_ours_is_the_familys_own(value: str) -> None:
    broken = FOREIGN[:8] + value
    assert restore(broken, "gemini") == Seal("gemini", broken)
    relayed = [of({"text": "x", "thoughtSignature": broken})]
    assert cleaned(relayed, signed_calls=False) is relayed
