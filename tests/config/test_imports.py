"""Configurations of LiteLLM, aicore-router and the older proxies as ours."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from aicore_proxy.config.document import read_document
from aicore_proxy.config.imports import Imported, imported
from aicore_proxy.config.load import load
from aicore_proxy.config.settings import Settings, SettingsError
from aicore_proxy.server.configuration import client_keys

LITELLM = """
model_list:
  - model_name: gpt-5
    litellm_params: {model: sap/gpt-5}
  - model_name: sap-gpt4
    litellm_params: {model: sap/gpt-4o, api_key: os.environ/AICORE_SERVICE_KEY, rpm: 10}
  - model_name: claude-4.5-sonnet
    litellm_params: {model: sap/anthropic--claude-4.5-sonnet}
  - model_name: fast
    litellm_params: {model: sap/gpt-5-mini, api_key: os.environ/EU_KEY, resource_group: team}
  - model_name: fast
    litellm_params: {model: sap/gemini-2.5-flash, api_key: os.environ/EU_KEY}
  - model_name: azure-gpt
    litellm_params: {model: azure/gpt-4o, api_key: os.environ/AZURE}
general_settings: {master_key: os.environ/MASTER, database_url: postgres://x}
litellm_settings: {drop_params: true}
environment_variables:
  AICORE_AUTH_URL: https://x.authentication.sap.hana.ondemand.com/oauth/token
  AICORE_CLIENT_ID: sb-1
  AICORE_CLIENT_SECRET: "a${b}c"
  AICORE_RESOURCE_GROUP: default
  AICORE_BASE_URL: https://api.ai.x/v2
  REDIS_HOST: r
router_settings:
  model_group_alias: {gpt-4: sap-gpt4, hidden: {model: gpt-5, hidden: true}}
  routing_strategy: least-busy
"""
ROUTER = """
log_level: warn
bind: "0.0.0.0:8901"
api_keys: [my-api-key-1, {key: admin-key, daily_token_limit: 0}]
load_balancing: round_robin
providers:
  - &one
    name: primary
    uaa_token_url: https://your-tenant.authentication.sap.hana.ondemand.com/oauth/token
    uaa_client_id: sb-1!b1|xsuaa_std!b1
    uaa_client_secret: se$cret
    genai_api_url: https://api.ai.prod
    resource_group: default
  - {<<: *one, name: secondary, uaa_client_id: sb-2, weight: 3}
  - {<<: *one, name: off, enabled: false}
models:
  - {name: gpt-5-mini, pricing: {input: 0.25}}
  - {name: claude-sonnet-4-6, aicore_model_name: anthropic--claude-4.6-sonnet, aliases: [claude-sonnet-4-6-*, sonnet]}
  - {name: smart, aicore_model_name: anthropic--claude-4.7-opus, aliases: [claude-opus-4.7, claude-opus-*]}
fallback_models: {claude: claude-sonnet-4-6}
refresh_interval_secs: 60
"""


def made(folder: Path, text: str, **environ: str) -> tuple[Imported, Settings]:
    """The import, and what is loaded from what it writes."""
    source, target = folder / "source.yaml", folder / "target.yaml"
    source.write_text(text)
    result = imported(read_document(source), folder)
    target.write_text(result.text(source.name))
    assert yaml.safe_load(target.read_text()), "YAML for everybody"
    return result, load(environ, file=target, cwd=folder).settings


def test_litellm(tmp_path: Path) -> None:
    key = '{"clientid": "sb-eu", "clientsecret": "c"}'
    result, settings = made(tmp_path, LITELLM, EU_KEY=key, MASTER="master-key-of-ours")

    assert (settings.port, settings.strategy) == (4000, "least_outstanding")
    assert [(key.name, key.key) for key in settings.keys] == [("master", "master-key-of-ours")]
    eu, default = settings.subaccounts
    assert (eu.service_key, eu.resource_groups) == ({"clientid": "sb-eu", "clientsecret": "c"}, ("team",))
    assert default.service_key == {
        "clientid": "sb-1",
        "clientsecret": "a${b}c",
        "url": "https://x.authentication.sap.hana.ondemand.com",
        "serviceurls": {"AI_API_URL": "https://api.ai.x"},
    }
    assert default.resource_groups == ("default",)
    # What our names lead to by themselves is no alias
    assert settings.aliases == {"sap-gpt4": "gpt-4o", "fast": "gpt-5-mini", "gpt-4": "gpt-4o", "hidden": "gpt-5"}
    models = ("gpt-5", "gpt-4o", "anthropic--claude-4.5-sonnet", "gpt-5-mini", "gemini-2.5-flash")
    assert settings.models.include == models
    told = "\n".join(result.remarks)
    for wanted in ("rpm", "azure/gpt-4o", "leads to gpt-5-mini alone", "database_url", "drop_params", "REDIS_HOST"):
        assert wanted in told
    assert "master-key-of-ours" not in result.text("x")


def test_litellm_with_all_models_and_sap_s_own_credentials(tmp_path: Path) -> None:
    text = 'model_list:\n  - {model_name: "sap/*", litellm_params: {model: "sap/*"}}'
    result, settings = made(tmp_path, text)
    assert (settings.models.include, settings.aliases, settings.subaccounts) == ((), {}, ())
    assert any("AICORE_SERVICE_KEY" in remark for remark in result.remarks)
    assert any("master_key" in remark for remark in result.remarks)


def test_litellm_s_default_credentials_stay_beside_others(tmp_path: Path) -> None:
    text = """
model_list:
  - {model_name: a, litellm_params: {model: sap/gpt-5}}
  - {model_name: b, litellm_params: {model: sap/gpt-4o, api_key: os.environ/EU_KEY}}
"""
    result, settings = made(tmp_path, text, EU_KEY='{"clientid": "eu"}', AICORE_SERVICE_KEY='{"clientid": "default"}')
    assert [one.service_key for one in settings.subaccounts] == [{"clientid": "eu"}, {"clientid": "default"}]
    assert any("without an api_key of their own are those of sap-2" in remark for remark in result.remarks)


def test_short_keys_are_taken_and_told(tmp_path: Path) -> None:
    """``sk-1234`` is the key of LiteLLM's own examples."""
    text = "model_list: [{model_name: a, litellm_params: {model: sap/gpt-5}}]\ngeneral_settings: {master_key: sk-1234}"
    result, settings = made(tmp_path, text)
    assert client_keys(settings)[0].digest == hashlib.sha256(b"sk-1234").digest()
    assert any("master_key is so short" in remark for remark in result.remarks)

    result, settings = made(tmp_path, ROUTER.replace("my-api-key-1", "key-one, key-one"))
    hashed, plain = settings.keys
    assert (hashed.hash.removeprefix("sha256:"), plain.key) == (hashlib.sha256(b"key-one").hexdigest(), "admin-key")
    assert any("api_keys[0] is so short" in remark for remark in result.remarks)


def test_aicore_router(tmp_path: Path) -> None:
    result, settings = made(tmp_path, ROUTER)

    assert (settings.host, settings.port, settings.log_level) == ("0.0.0.0", 8901, "warning")
    assert [key.key for key in settings.keys] == ["my-api-key-1", "admin-key"]
    assert [one.name for one in settings.subaccounts] == ["primary", "secondary"]
    assert settings.subaccounts[0].service_key == {
        "clientid": "sb-1!b1|xsuaa_std!b1",
        "clientsecret": "se$cret",
        "url": "https://your-tenant.authentication.sap.hana.ondemand.com",
        "serviceurls": {"AI_API_URL": "https://api.ai.prod"},
    }
    assert (settings.strategy, settings.routing.weights) == ("weighted", {"secondary": 3.0})
    assert settings.discovery_interval == 60
    assert settings.aliases == {"sonnet": "anthropic--claude-4.6-sonnet", "smart": "anthropic--claude-4.7-opus"}
    assert settings.models.include == ("gpt-5-mini", "anthropic--claude-4.6-sonnet", "anthropic--claude-4.7-opus")
    told = "\n".join(result.remarks)
    for wanted in ("limits of keys", "not enabled", "'claude-opus-*'", "pricing of gpt-5-mini", "fallback_models"):
        assert wanted in told


@pytest.mark.parametrize(
    ("bind", "wanted"),
    [("127.0.0.1:9000", ("127.0.0.1", 9000)), ("127.0.0.1", ("127.0.0.1", 8900)), ("[::1]:9001", ("::1", 9001))],
)
def test_aicore_router_s_addresses(tmp_path: Path, bind: str, wanted: tuple[str, int]) -> None:
    text = ROUTER.replace("0.0.0.0:8901", bind).replace("round_robin", "fallback")
    _, settings = made(tmp_path, text)
    assert (settings.host, settings.port) == wanted
    assert settings.routing.tiers == {"primary": 0, "secondary": 1}


def test_an_older_proxy_s(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text("{}")
    text = """{"service_key_json": "key.json", "deployment_models": {"4-sonnet": ["https://x/deployments/d1"]},
               "secret_authentication_tokens": ["a-token-${OF_OURS}"], "port": 3002}"""
    result, settings = made(tmp_path, text)
    assert result.kind == "sap-ai-core-llm-proxy"
    assert (settings.port, settings.keys[0].key) == (3002, "a-token-${OF_OURS}")
    assert settings.subaccounts[0].deployments == {"4-sonnet": ("d1",)}


def test_what_is_none_of_them(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="LiteLLM's has model_list"):
        made(tmp_path, "port: 3001")


ODD_LITELLM = """
model_list: [1, {litellm_params: 5}, {litellm_params: {model: [x]}}]
router_settings: {model_group_alias: [], routing_strategy: []}
"""
ODD_ROUTER = """
providers: [{genai_api_url: 1}, 7]
api_keys: 5
models: {}
bind: []
log_level: {}
refresh_interval_secs: []
"""


@pytest.mark.parametrize("text", [ODD_LITELLM, ODD_ROUTER])
def test_odd_values_are_no_accident(tmp_path: Path, text: str) -> None:
    (tmp_path / "source.yaml").write_text(text)
    assert imported(read_document(tmp_path / "source.yaml"), tmp_path).text("x")
