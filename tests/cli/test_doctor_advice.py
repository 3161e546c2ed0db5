"""Advice by itself: there is some for everything that can go wrong, and it names what it must."""

from __future__ import annotations

import pytest

from aicore_proxy.cli.doctor import advice
from aicore_proxy.upstream import Phase

HOST, PROXY = "api.example:8443", "http://proxy.example:3128"


def readable(steps: advice.Steps) -> str:
    """The steps as one text, after a look at their form."""
    assert steps
    for step in steps:
        assert step == " ".join(step.split()), step
        assert step[:1].isupper() or step.startswith(("AICORE", "subaccounts")), step
        assert "None" not in step
        assert not (set("{}") & set(step.replace("{ to }", "").partition('{"xsuaa"')[0])), step
    return " ".join(steps)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("proxy", ["", PROXY])
@pytest.mark.parametrize("phase", list(Phase))
def test_every_way_to_fail_has_advice(phase: Phase, proxy: str, known: bool) -> None:
    text = readable(advice.unreachable(phase, HOST, "words", proxy, "HTTPS_PROXY", known=known))

    if phase is Phase.TLS:
        assert f"openssl s_client -connect {HOST}" in text
    elif proxy:
        assert "NO_PROXY=api.example" in text
        assert PROXY in text
    elif not known:
        assert "getent hosts api.example" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("certificate has expired", "clock is wrong"),
        ("certificate is not yet valid", "clock is wrong"),
        ("Hostname mismatch, certificate is not valid for 'x'", "Another host"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "does not speak TLS"),
        ("[SSL] record layer failure", "does not speak TLS"),
        ("self-signed certificate in certificate chain", "inspects TLS"),
        ("unable to get local issuer certificate", "AICORE_PROXY_CA_BUNDLE"),
    ],
)
def test_certificates_fail_for_different_reasons(words: str, says: str) -> None:
    assert says in readable(advice.unreachable(Phase.TLS, "api.example", words, "", ""))


def test_a_proxy_that_wants_a_password() -> None:
    words = "The proxy refused the way to api.example with status 407."

    assert "HTTPS_PROXY=http://<user>:<password>@" in readable(
        advice.unreachable(Phase.PROXY, "api.example", words, PROXY, "HTTPS_PROXY")
    )


def test_every_status_has_advice() -> None:
    for status in (None, *range(300, 600)):
        readable(advice.ai_api(status, "words", "team"))
        readable(advice.all_failed(status, "team"))
        for phase in (None, *Phase):
            readable(advice.failed_call(status, phase, "words", "team"))
        if status is not None:
            readable(advice.no_token(f"status {status}", refused=status < 404, by_certificate=False, source="a file"))


def test_a_403_is_never_only_forbidden() -> None:
    listing, calling = advice.ai_api(403, "", "team"), advice.failed_call(403, None, "", "team")

    for text in (readable(listing), readable(calling), readable(advice.all_failed(403, "team"))):
        assert "AI-Resource-Group" in text
        assert "'extended'" in text
    assert "there is no such deployment" in readable(calling)


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("by_certificate", [True, False])
def test_tokens(refused: bool, by_certificate: bool) -> None:
    expired = "the token service failed. The certificate of the service key expired on 2026-11-01 00:00 UTC"
    for problem in (
        "status 401: unauthorized",
        "answered without an access_token",
        "did not answer within 15 s",
        expired,
    ):
        text = readable(advice.no_token(problem, refused=refused, by_certificate=by_certificate, source="a file"))
        assert ("seven days" in text) is (problem is expired)


def test_what_is_deployed() -> None:
    assert "DEAD" not in readable(advice.not_running("DEAD", "image pull failed"))
    assert "image pull failed" in readable(advice.not_running("DEAD", "image pull failed"))
    for status in ("PENDING", "UNKNOWN", "STOPPING", "SOMETHING NEW"):
        readable(advice.not_running(status, ""))
    for pinned in (True, False):
        assert "SAP suggests gpt-6." in readable(advice.retirement(("gpt-6",), pinned=pinned))
        assert "suggests" not in readable(advice.retirement((), pinned=pinned))
    assert "mloperations_editor" in readable(advice.no_deployments("default, team"))
    assert "Did you mean team?" in readable(advice.ai_api(403, "", "taem", ["default", "team"]))
    readable(advice.no_key())
    for problem in ("x is not valid JSON", "x cannot be read: y", "no *.json file in x", "url is missing", "clientid"):
        readable(advice.unusable_key(problem))
