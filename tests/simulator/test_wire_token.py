"""The token endpoint and bearer tokens (SAP AI Core wire facts, sections 1.3 and 8.2)."""

from __future__ import annotations

import base64
import json
import ssl
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from tests.simulator.conftest import Tenant

from aicore_proxy.simulator import Running, in_thread
from aicore_proxy.simulator.landscape import simple


def ask(tenant: Tenant, form: dict[str, str], query: str = "", **headers: str) -> httpx2.Response:
    return tenant.http.post(f"{tenant.key['url']}/oauth/token{query}", data=form, headers=headers)


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


@pytest.mark.parametrize("variant", ["body", "response_type", "basic_body", "basic_query", "query"])
def test_wire_token_requests_of_every_client_are_accepted(tenant: Tenant, variant: str) -> None:
    client, secret = tenant.key["clientid"], tenant.key["clientsecret"]
    basic = {"Authorization": "Basic " + base64.b64encode(f"{client}:{secret}".encode()).decode()}
    grant = {"grant_type": "client_credentials"}
    inline = {**grant, "client_id": client, "client_secret": secret}
    answer = {
        "body": lambda: ask(tenant, inline),
        "response_type": lambda: ask(tenant, {**inline, "response_type": "token"}),
        "basic_body": lambda: ask(tenant, grant, **basic),
        "basic_query": lambda: ask(tenant, {}, "?grant_type=client_credentials", **basic),
        "query": lambda: ask(tenant, {}, "?" + str(httpx2.QueryParams(inline))),
    }[variant]()

    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "token_type", "expires_in", "scope", "jti"}
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("bearer", 43199)


def test_wire_token_is_a_jwt_with_the_claims_that_clients_read(tenant: Tenant) -> None:
    token = tenant.new_token()

    assert token.count(".") == 2
    found = claims(token)
    assert found["client_id"] == found["cid"] == tenant.key["clientid"]
    assert found["zid"] == found["subaccountid"] == tenant.key["identityzoneid"]
    assert found["iss"].endswith("/oauth/token")
    assert 43100 < found["exp"] - time.time() <= 43199


@pytest.mark.parametrize("wrong", ["secret", "client"])
def test_wire_bad_credentials_are_refused_as_xsuaa_does(tenant: Tenant, wrong: str) -> None:
    form = {
        "grant_type": "client_credentials",
        "client_id": tenant.key["clientid"],
        "client_secret": tenant.key["clientsecret"],
    }
    form["client_" + {"secret": "secret", "client": "id"}[wrong]] += "x"

    answer = ask(tenant, form)

    assert answer.status_code == 401
    assert answer.json() == {"error": "unauthorized", "error_description": "Bad credentials"}


def test_wire_expires_in_is_configurable(tenant: Tenant, simulator: Running) -> None:
    simulator.switch(expires_in=7199)

    token = tenant.new_token()

    assert 7100 < claims(token)["exp"] - time.time() <= 7199


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("none", "Jwt is missing"),
        ("not_bearer", "Jwt is missing"),
        ("opaque", "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"),
        ("forged", "Jwt verification fails"),
        ("expired", "Jwt is expired"),
        ("revoked", "Jwt is expired"),
    ],
)
@pytest.mark.parametrize("plane", ["inference", "ai_api"])
def test_wire_tokens_that_do_not_hold_meet_the_meshs_plain_text(
    tenant: Tenant, simulator: Running, plane: str, kind: str, text: str
) -> None:
    good = tenant.token
    if kind in ("expired", "revoked"):
        simulator.switch(expires_in=0 if kind == "expired" else 43199)
        good = tenant.new_token()
    if kind == "revoked":
        simulator.call("DELETE", "tokens?at=demo-eu")
    header = {"none": None, "not_bearer": "Basic abc", "opaque": "Bearer abc", "forged": f"Bearer {good[:-4]}aaaa"}
    authorization = header.get(kind, f"Bearer {good}")

    if plane == "ai_api":
        answer = tenant.get("/lm/deployments", authorization=authorization)
    else:
        answer = tenant.post("gpt-5", "chat/completions?api-version=2024-10-21", {}, authorization=authorization)

    assert (answer.status_code, answer.text) == (401, text)
    assert answer.headers["content-type"] == "text/plain"
    if kind == "revoked":
        tenant.token = tenant.new_token()


def test_tokens_are_counted_and_revoked_per_subaccount(tenants: dict[str, Tenant], simulator: Running) -> None:
    def counted() -> int:
        return int(simulator.state()["subaccounts"]["demo-us"]["token_requests"])

    before = counted()
    other = tenants["demo-us"]
    other.new_token()

    assert counted() == before + 1
    simulator.call("DELETE", "tokens?at=demo-us")
    assert other.get("/lm/deployments").status_code == 401
    assert tenants["demo-eu"].get("/lm/deployments").status_code == 200
    other.token = other.new_token()
    assert other.get("/lm/deployments").status_code == 200


def test_a_rotated_secret_refuses_the_old_one(tenant: Tenant, simulator: Running) -> None:
    old = tenant.key["clientsecret"]
    simulator.call("PATCH", "subaccounts/demo-eu", {"clientsecret": "new"})
    try:
        form = {"grant_type": "client_credentials", "client_id": tenant.key["clientid"], "client_secret": old}
        assert ask(tenant, form).status_code == 401
        assert ask(tenant, {**form, "client_secret": "new"}).status_code == 200
        assert tenant.get("/lm/deployments").status_code == 200, "tokens that are out stay good"
    finally:
        simulator.call("PATCH", "subaccounts/demo-eu", {"clientsecret": old})


@pytest.mark.parametrize(
    ("script", "status", "body"),
    [
        ({"status": 500}, 500, {"error": "server_error", "error_description": "The token service failed."}),
        (
            {"status": 429, "retry_after": 2, "message": "Slow down"},
            429,
            {"error": "too_many_requests", "error_description": "Slow down"},
        ),
        (
            {"body": {"access_token": "a.b.c", "expires_in": "soon"}},
            200,
            {"access_token": "a.b.c", "expires_in": "soon"},
        ),
    ],
)
def test_the_token_endpoint_can_be_broken(
    tenant: Tenant, simulator: Running, script: Any, status: int, body: Any
) -> None:
    simulator.script(script, "demo-eu", endpoint="token")
    form = {
        "grant_type": "client_credentials",
        "client_id": tenant.key["clientid"],
        "client_secret": tenant.key["clientsecret"],
    }

    answer = ask(tenant, form)

    assert (answer.status_code, answer.json()) == (status, body)
    assert answer.headers.get("retry-after") == ("2" if status == 429 else None)


def test_the_token_endpoint_can_speak_garbage_and_stall(tenant: Tenant, simulator: Running) -> None:
    form = {
        "grant_type": "client_credentials",
        "client_id": tenant.key["clientid"],
        "client_secret": tenant.key["clientsecret"],
    }
    simulator.script({"garbage": True}, endpoint="token")
    with pytest.raises(json.JSONDecodeError):
        ask(tenant, form).json()
    simulator.script({"hang": True}, endpoint="token")
    with pytest.raises(httpx2.ReadTimeout):
        tenant.http.post(f"{tenant.key['url']}/oauth/token", data=form, timeout=0.3)
    simulator.script({"reset": True}, endpoint="token")
    with pytest.raises(httpx2.TransportError):
        ask(tenant, form)


def test_wire_a_certificate_stands_in_for_the_secret(tmp_path: Path) -> None:
    """At a host of its own (``certurl``), which ends the handshake of whoever shows none of the right CA."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    right, wrong, foreign = (ca.issue_cert("client@example.test") for ca in (authority, authority, trustme.CA()))

    def ask(pair: trustme.LeafCert | None, url: str, client: str) -> httpx2.Response:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        if pair is not None:
            pair.configure_cert(context)
        form = {"grant_type": "client_credentials", "client_id": client}
        with httpx2.Client(verify=context, trust_env=False) as http:
            return http.post(f"{url}/oauth/token", data=form)

    with in_thread(simple(["gpt-5"], 2), certified=server) as simulator:
        simulator.call("PATCH", "subaccounts/sub-1", {"certificate": right.cert_chain_pems[0].bytes().decode()})
        keys = simulator.service_keys()
        key, client = keys["sub-1"], keys["sub-1"]["clientid"]
        assert (key["credential-type"], "clientsecret" in key) == ("x509", False)
        assert ask(right, key["certurl"], client).json()["token_type"] == "bearer"
        for pair, asked in ((wrong, client), (right, keys["sub-2"]["clientid"])):
            refused = ask(pair, key["certurl"], asked)
            assert (refused.status_code, refused.json()["error_description"]) == (401, "Bad credentials")
        for none in (None, foreign):
            with pytest.raises(httpx2.TransportError):
                ask(none, key["certurl"], client)
        assert ask(None, key["url"], client).status_code == 401
        with httpx2.Client(trust_env=False) as http:
            form = {"grant_type": "client_credentials", "client_id": client, "client_secret": "guess"}
            assert http.post(f"{key['url']}/oauth/token", data=form).status_code == 401
