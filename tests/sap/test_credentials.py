"""Where service keys are looked for, what wins, and what is said of a wrong one."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.sap.credentials import CredentialsError, Secret, find_service_keys

SECRET = "s3cr3t$abc="
KEY = {
    "clientid": "sb-1!b100|aicore!b200",
    "clientsecret": SECRET,
    "url": "https://acme.authentication.eu10.hana.ondemand.com",
    "identityzone": "acme",
    "identityzoneid": "zone-1",
    "serviceurls": {"AI_API_URL": "https://api.ai.prod.example.com"},
}
VARIABLES = {
    "AICORE_CLIENT_ID": "from-variables",
    "AICORE_CLIENT_SECRET": SECRET,
    "AICORE_AUTH_URL": "https://auth.example.com/oauth/token",
    "AICORE_BASE_URL": "https://api.example.com/v2",
}


def key(**more: Any) -> dict[str, Any]:
    return {**KEY, **more}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def vcap(credentials: object, label: str = "aicore") -> str:
    return json.dumps({"other": [{"label": "x"}], "any": [{"label": label, "name": "a", "credentials": credentials}]})


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert find_service_keys({}, tmp_path).keys == ()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("ending", ["", "/", "/v2", "/v2/"])
def test_a_service_key_in_every_spelling(tmp_path: Path, ending: str, wrapped: bool) -> None:
    raw = key(
        serviceurls={"AI_API_URL": KEY["serviceurls"]["AI_API_URL"] + ending},
        url=KEY["url"] + {"": "", "/": "/", "/v2": "/oauth/token", "/v2/": "/oauth/token/"}[ending],
    )
    found = find_service_keys({"AICORE_SERVICE_KEY": json.dumps({"credentials": raw} if wrapped else raw)}, tmp_path)
    (one,) = found.keys
    assert one.api_url == "https://api.ai.prod.example.com"
    assert one.token_url == "https://acme.authentication.eu10.hana.ondemand.com/oauth/token"
    assert (one.client_id, one.client_secret.value, one.identity_zone_id) == (KEY["clientid"], SECRET, "zone-1")
    assert (one.name, one.resource_group, found.source) == ("default", None, "AICORE_SERVICE_KEY")


def test_the_first_source_that_has_anything_supplies_all(tmp_path: Path) -> None:
    """The Python SDK's order: service key, variables, configuration file, Cloud Foundry."""
    write(tmp_path / ".aicore/config.json", {**VARIABLES, "AICORE_CLIENT_ID": "from-file"})
    environ = {"VCAP_SERVICES": vcap(key(clientid="from-vcap")), **VARIABLES}
    environ["AICORE_SERVICE_KEY"] = json.dumps(key(clientid="from-key"))
    order = []
    for gone in (["AICORE_SERVICE_KEY"], list(VARIABLES), [str(tmp_path)], ["VCAP_SERVICES"]):
        found = find_service_keys(environ, tmp_path)
        order.append(found.keys[0].client_id)
        for name in gone:
            environ.pop(name, None)
        if str(tmp_path) in gone:
            (tmp_path / ".aicore/config.json").unlink()
    assert order == ["from-key", "from-variables", "from-file", "from-vcap"]
    assert find_service_keys(environ, tmp_path).keys == ()


def test_half_a_source_is_an_error_and_not_filled_up_from_the_next(tmp_path: Path) -> None:
    environ = {"AICORE_CLIENT_ID": "a", "VCAP_SERVICES": vcap(KEY)}
    with pytest.raises(CredentialsError) as caught:
        find_service_keys(environ, tmp_path)
    source = "the variables AICORE_*"
    assert caught.value.problems == (
        f"{source}: AICORE_AUTH_URL is missing",
        f"{source}: AICORE_BASE_URL is missing",
        f"{source}: AICORE_CLIENT_SECRET is missing (or, of an X.509 key, AICORE_CERT_STR and AICORE_KEY_STR)",
    )
    write(tmp_path / "config.json", {"AICORE_CLIENT_SECRET": "x", "AICORE_AUTH_URL": "ftp://x"})
    with pytest.raises(CredentialsError) as caught:
        find_service_keys({"AICORE_HOME": str(tmp_path)}, tmp_path)
    assert [problem.rpartition(": ")[2] for problem in caught.value.problems] == [
        "AICORE_AUTH_URL is not an http(s) URL",
        "AICORE_BASE_URL is missing",
        "AICORE_CLIENT_ID is missing",
    ]
    write(tmp_path / "config.json", {"clientid": "x", "url": "https://x", "clientsecret": "x"})
    with pytest.raises(CredentialsError, match=r"serviceurls\.AI_API_URL is missing"):
        find_service_keys({"AICORE_HOME": str(tmp_path)}, tmp_path)


def test_variables_are_normalised(tmp_path: Path) -> None:
    (one,) = find_service_keys({**VARIABLES, "AICORE_RESOURCE_GROUP": "team"}, tmp_path).keys
    assert (one.api_url, one.token_url) == ("https://api.example.com", "https://auth.example.com/oauth/token")
    assert one.resource_group == "team"


@pytest.mark.parametrize("place", ["variable", "file", "vcap"])
def test_the_resource_group_is_searched_everywhere(tmp_path: Path, place: str) -> None:
    environ = {"AICORE_SERVICE_KEY": json.dumps(KEY)}
    if place == "variable":
        environ["AICORE_RESOURCE_GROUP"] = "team"
    elif place == "file":
        write(tmp_path / ".aicore/config.json", {"AICORE_RESOURCE_GROUP": "team"})
    else:
        environ["VCAP_SERVICES"] = vcap({"AICORE_RESOURCE_GROUP": "team"})
    assert find_service_keys(environ, tmp_path).keys[0].resource_group == "team"


@pytest.mark.parametrize(
    ("environ", "file"),
    [
        ({}, ".aicore/config.json"),
        ({"AICORE_PROFILE": "default"}, ".aicore/config.json"),
        ({"AICORE_PROFILE": "test"}, ".aicore/config_test.json"),
        ({"AICORE_HOME": "HOME/elsewhere"}, "elsewhere/config.json"),
        ({"AICORE_CONFIG": "HOME/mine.json", "AICORE_PROFILE": "test"}, "mine.json"),
    ],
)
@pytest.mark.parametrize("names", ["sdk", "lower", "key"])
def test_the_configuration_file(tmp_path: Path, environ: dict[str, str], file: str, names: str) -> None:
    lower = {name.removeprefix("AICORE_").lower(): value for name, value in VARIABLES.items()}
    content = {"sdk": VARIABLES, "lower": lower, "key": key(clientid="from-variables")}[names]
    path = write(tmp_path / file, content)
    environ = {name: value.replace("HOME", str(tmp_path)) for name, value in environ.items()}
    found = find_service_keys(environ, tmp_path)
    assert (found.keys[0].client_id, found.source) == ("from-variables", str(path))


@pytest.mark.parametrize("environ", [{"AICORE_PROFILE": "none"}, {"AICORE_CONFIG": "/no/such/file.json"}])
def test_a_configuration_file_that_was_asked_for_must_be_there(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(CredentialsError, match="cannot be read"):
        find_service_keys(environ, tmp_path)


def test_a_folder_of_keys_wins_and_says_what_it_ignores(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    write(folder / "prod.json", KEY)
    write(folder / "dev.json", {"credentials": key(clientid="dev", resourceGroup="own")})
    write(folder / "prod-again.json", KEY)
    write(folder / ".hidden.json", "no JSON")
    write(folder / "notes.txt", "no JSON")
    environ = {**VARIABLES, "AICORE_PROXY_SERVICE_KEYS": str(folder), "AICORE_RESOURCE_GROUP": "team"}
    found = find_service_keys(environ, tmp_path)
    read = [(k.name, k.client_id, k.resource_group) for k in found.keys]
    assert read == [("dev", "dev", "own"), ("prod-again", KEY["clientid"], "team")]
    assert len(found.notes) == 2
    assert "AICORE_CLIENT_ID" in found.notes[0]
    assert "the same service key" in found.notes[1]


def test_every_problem_is_named_with_file_and_member_and_no_value(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    write(folder / "a.json", key(url="ftp://x", clientid=""))
    write(folder / "b.json", SECRET)
    write(folder / "c.json", [SECRET])
    write(folder / "d.json", {"clientid": "x", "certificate": "PEM", "url": "https://x", "AI_API_URL": "https://y"})
    with pytest.raises(CredentialsError) as caught:
        find_service_keys({"AICORE_PROXY_SERVICE_KEYS": str(folder)}, tmp_path)
    problems = [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]
    assert problems == [
        "b.json is not valid JSON",
        "c.json is not a JSON object",
        "a.json: url is not an http(s) URL",
        "a.json: clientid is missing",
        "d.json: key is missing",
    ]
    assert SECRET not in str(caught.value)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"no \*\.json file"):
        find_service_keys({"AICORE_PROXY_SERVICE_KEYS": str(tmp_path)}, tmp_path)


def test_a_secret_never_shows(tmp_path: Path) -> None:
    (one,) = find_service_keys({"AICORE_SERVICE_KEY": json.dumps(key(key="PRIVATE"))}, tmp_path).keys
    shown = f"{one!r} {one} {one.client_secret} {[one.client_secret]}"
    assert SECRET not in shown
    assert "PRIVATE" not in shown
    assert Secret("a") == Secret("a")


MEMBERS = (
    *("clientid", "clientsecret", "url", "certurl", "certificate", "key", "serviceurls", "AI_API_URL", "credentials"),
    *("aicore", "name", "credentialProperties", "format", "container", "AICORE_CLIENT_ID", "AICORE_BASE_URL"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from(["https://x", SECRET, "PEM"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS) | st.text(max_size=5), inner),
    max_leaves=12,
)
DOCUMENTS = ("AICORE_SERVICE_KEY", "VCAP_SERVICES", "AICORE_KEY_STR", "AICORE_CERT_STR")
NAMES = (
    *("VCAP_SERVICES_FILE_PATH", "AICORE_HOME", "AICORE_PROFILE", "AICORE_CONFIG", "SERVICE_BINDING_ROOT"),
    *("AICORE_CERT_FILE_PATH", "AICORE_AUTH_URL", "AICORE_BASE_URL", "AICORE_PROXY_SERVICE_KEYS"),
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20) | st.just("~0/x")


@given(
    st.dictionaries(st.sampled_from(DOCUMENTS), JSON.map(json.dumps) | TEXTS),
    st.dictionaries(st.sampled_from(NAMES), TEXTS),
    st.dictionaries(st.sampled_from((*MEMBERS, "type", "label", ".metadata", "any")), JSON),
)
def test_no_input_makes_a_traceback(
    documents: dict[str, str], variables: dict[str, str], mounted: dict[str, Any]
) -> None:
    """Whatever stands in variables, files and mounts: keys, or problems in words that quote no secret."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for member, value in mounted.items():
            write(folder / "mounts" / "aicore" / member, value if isinstance(value, str) else json.dumps(value))
        write(folder / ".aicore" / "config.json", mounted)
        for environ in ({**documents, **variables}, {}):
            try:
                found = find_service_keys(environ, folder, defaults=(folder / "mounts",))
            except CredentialsError as error:
                said = str(error)
            else:
                said = repr(found)
                assert all(key.client_id and key.api_url.startswith("http") for key in found.keys)
            assert said
            assert SECRET not in said
