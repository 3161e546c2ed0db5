"""Configuration files: what comes from where, secrets from variables and files, and what is said of bad ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aicore_proxy.config.load import Loaded, load
from aicore_proxy.config.settings import Settings, SettingsError
from aicore_proxy.server.configuration import client_keys

SERVICE_KEY = {
    "clientid": "sb-1",
    "clientsecret": "s3cret-of-sap",
    "url": "https://auth.example",
    "serviceurls": {"AI_API_URL": "https://api.example"},
}


def loaded(folder: Path, text: str | Mapping[str, Any] = "", name: str = "aicore-proxy.yaml", **environ: str) -> Loaded:
    """What is loaded in a folder with that file. Other variables: as given."""
    (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))
    (folder / name).chmod(0o600)
    return load(environ, cwd=folder, home=folder / "nobody")


def problems(
    folder: Path, text: str | Mapping[str, Any] = "", name: str = "aicore-proxy.yaml", **env: str
) -> list[str]:
    """What is said of it, without the folder."""
    with pytest.raises(SettingsError) as caught:
        loaded(folder, text, name, **env)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


# --- where values come from


def test_options_come_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("port: 1001\nhold: 2\nkeepalive: 3\nmax_attempts: 4\n")
    environ = {"AICORE_PROXY_PORT": "1002", "AICORE_PROXY_HOLD": "20", "AICORE_PROXY_KEEPALIVE": "30"}

    found = load(environ, {"keepalive": 300.0, "host": None}, file=file, cwd=tmp_path)

    settings = found.settings
    assert (settings.port, settings.hold, settings.keepalive, settings.max_attempts) == (1002, 20.0, 300.0, 4)
    assert settings.deadline == Settings().deadline
    assert found.origins == {
        "port": "AICORE_PROXY_PORT",
        "hold": "AICORE_PROXY_HOLD",
        "keepalive": "--keepalive",
        "max_attempts": f"{file}:4",
    }
    assert load(environ | {"PORT": "1003"}, cwd=tmp_path, home=tmp_path).settings.port == 1003


def test_the_file_is_found_in_one_order(tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    own = home / ".config" / "aicore-proxy"
    for folder in (own, here, tmp_path / "xdg" / "aicore-proxy"):
        folder.mkdir(parents=True)
    legacy = json.dumps({"secret_authentication_tokens": ["a-long-token"], "port": 1})
    places = [here / "config.json", own / "config.json", own / "config.yaml", here / "aicore-proxy.json"]
    places += [here / "aicore-proxy.yml", here / "aicore-proxy.yaml"]
    assert load({}, cwd=here, home=home).file is None
    for number, place in enumerate(places):
        place.write_text(legacy if number == 0 else f'{{"port": {number + 1}}}')
        found = load({}, cwd=here, home=home)
        assert (found.file, found.settings.port) == (place, number + 1)

    named = {"AICORE_PROXY_CONFIG": "../named.yaml"}
    (tmp_path / "named.yaml").write_text("port: 77")
    assert load(named, cwd=here, home=home).settings.port == 77
    assert load(named, cwd=here, home=home, file=Path("aicore-proxy.yml")).settings.port == 5
    (tmp_path / "xdg" / "aicore-proxy" / "config.yaml").write_text("port: 88")
    assert load({"XDG_CONFIG_HOME": str(tmp_path / "xdg")}, cwd=tmp_path, home=home).settings.port == 88


def test_a_config_json_of_something_else_is_none_of_ours(tmp_path: Path) -> None:
    for content in ('{"name": "another tool"}', "[1]", "not JSON"):
        assert load({}, cwd=tmp_path, home=tmp_path).file is None
        (tmp_path / "config.json").write_text(content)
    assert load({}, cwd=tmp_path, home=tmp_path).file is None


def test_what_is_given_nearer_replaces_the_other_way_to_give_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key-of-a-file\n")
    assert loaded(tmp_path, "api_key: key-in-yaml", AICORE_PROXY_API_KEY_FILE="key").settings.api_key == "key-of-a-file"
    assert loaded(tmp_path, "api_key_file: key", AICORE_PROXY_API_KEY="key-given").settings.api_key == "key-given"
    assert problems(tmp_path, "api_key_file: key\napi_key: key-in-yaml") == [
        "aicore-proxy.yaml:2: api_key and api_key_file: one of them, not both."
    ]


def test_unknown_variables_are_told_but_not_those_of_others(tmp_path: Path) -> None:
    foreign = {"AICORE_PROXY_URL": "https://x", "AICORE_PROXY_KEY": "k", "AICORE_PROXY_CA_BUNDLE": "/ca.pem"}
    assert load(foreign, cwd=tmp_path, home=tmp_path).settings == Settings()
    variables = {"AICORE_PROXY_PROT": "1", "AICORE_PROXY_HOLD": "soon", "AICORE_PROXY_KEYS": "a", "PORT": "http"}
    with pytest.raises(SettingsError) as caught:
        load(foreign | variables, cwd=tmp_path, home=tmp_path)
    assert caught.value.problems == [
        "AICORE_PROXY_PROT is not a setting: did you mean AICORE_PROXY_PORT?",
        "AICORE_PROXY_HOLD must be a number.",
        "AICORE_PROXY_KEYS: keys can only be set in the configuration file.",
        "PORT must be a whole number.",
    ]


# --- secrets


def test_secrets_come_from_variables_and_files(tmp_path: Path) -> None:
    (tmp_path / "eu.json").write_text(json.dumps(SERVICE_KEY))
    (tmp_path / "team.key").write_text("key-of-the-team\n")
    text = """
        port: ${PORT_OF_OURS:-4444}
        trusted_proxies: ${PROXIES}
        subaccounts:
          - {name: file, service_key_file: eu.json}
          - {name: json, service_key: "${KEY_JSON}"}
          - name: members
            service_key: {clientid: "sb-${ID}", clientsecret: "${SECRET}", url: "https://a", serviceurls: {AI_API_URL: "https://b"}}
        keys:
          - {name: team, key_file: team.key}
          - {name: plain, key: "a$${b}-${KEY}"}
          - {name: digits, key: 00123456780}
    """
    environ = {
        "KEY_JSON": json.dumps(SERVICE_KEY),
        "ID": "7",
        "SECRET": "x$y",
        "KEY": "${ID}",
        "PROXIES": "10.0.0.1, ::1",
    }
    found = loaded(tmp_path, text, **environ)

    settings = found.settings
    assert (settings.port, settings.trusted_proxies) == (4444, ("10.0.0.1", "::1"))
    assert [one.service_key for one in settings.subaccounts][:2] == [SERVICE_KEY, SERVICE_KEY]
    members = settings.subaccounts[2].service_key
    assert members is not None
    assert (members["clientid"], members["clientsecret"]) == ("sb-7", "x$y")
    # A variable's value is taken as it is: what looks like a reference in it is none
    assert [key.key for key in settings.keys] == ["key-of-the-team", "a${b}-${ID}", "00123456780"]
    assert set(found.files) == {tmp_path / name for name in ("aicore-proxy.yaml", "eu.json", "team.key")}


def test_no_secret_is_told(tmp_path: Path) -> None:
    secret = "sEcReT-vAlUe-1"
    (tmp_path / "bad.json").write_text(f'{{"clientsecret": "{secret}"')
    texts = [
        f"keys: [{{name: a, key: {secret}, hash: {secret}}}]\nport: {secret}\nworkers: [{secret}]\nlog_level: {secret}",
        f"keys: [{{name: a, key: '{secret} {secret}'}}, {{name: b, hash: {secret}}}, {{name: c, key: [{secret}]}}]",
        f"api_key: *{secret}",
        f"api_key: !{secret}!x y",
        f"api_key: &{secret} x\nkeys: *{secret}2",
        f"api_key: '{secret}",
        f"api_key: {secret}: {secret}",
        f"subaccounts: [{{name: a, service_key: {secret}}}, {{name: b, service_key_file: bad.json}}]",
        f"subaccounts: [{{name: a, service_key: {{clientsecret: {secret}}}, service_key_file: bad.json}}]",
    ]
    for text in texts:
        said = "\n".join(problems(tmp_path, text, API=secret))
        assert said
        assert secret not in said, text
    said = "\n".join(problems(tmp_path, f'{{"api_key": "{secret}", "port": "{secret}" x', "aicore-proxy.json"))
    assert secret not in said
    variables = {"AICORE_PROXY_API_KEY": f"{secret} {secret}", "AICORE_PROXY_PORT": secret}
    assert secret not in "\n".join(problems(tmp_path, "", **variables))
    found = loaded(tmp_path, f"api_key: {secret}", X=secret)
    assert secret not in repr(found) + repr(found.settings) + repr(found.settings.keys)


def test_a_short_key_will_do_where_only_this_machine_connects(tmp_path: Path) -> None:
    assert loaded(tmp_path, "", AICORE_PROXY_API_KEY="test").settings.api_key == "test"
    (problem,) = problems(tmp_path, "host: 0.0.0.0", AICORE_PROXY_API_KEY="test")
    assert problem.startswith("AICORE_PROXY_API_KEY: api_key must be a key of 8 to 1024 characters")


def test_a_file_with_secrets_that_everybody_may_read_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "aicore-proxy.yaml"
    assert loaded(tmp_path, "api_key: a-secret-key").notes == ()
    file.chmod(0o644)
    (note,) = load({}, cwd=tmp_path, home=tmp_path).notes
    assert f"chmod 600 {file}" in note
    file.write_text("port: 1")
    assert load({}, cwd=tmp_path, home=tmp_path).notes == ()


# --- bad files


def test_api_key_may_be_one_of_the_keys_again(tmp_path: Path) -> None:
    text = {"keys": [{"name": "a", "key": "a-key-of-ours", "models": ["gpt-*"]}, {"name": "b", "key": "another-key"}]}
    settings = loaded(tmp_path, text, AICORE_PROXY_API_KEY="a-key-of-ours").settings
    assert [(key.name, key.models) for key in client_keys(settings)] == [("a", ("gpt-*",)), ("b", ())]
    settings = loaded(tmp_path, text, AICORE_PROXY_API_KEY="a-third-key").settings
    assert [key.name for key in client_keys(settings)] == ["default", "a", "b"]


def test_every_problem_is_told_at_once_where_it_is(tmp_path: Path) -> None:
    hashed = f"sha256:{hashlib.sha256(b'x').hexdigest()}"
    same = f"sha256:{hashlib.sha256(b'a-key-of-ours').hexdigest().upper()}"
    text = f"""port: soon
hots: 0.0.0.0
host: 0.0.0.0
subaccounts:
  - name: eu
    service_key_file: missing.json
    resource_group: default
  - service_key: {{clientid: "${{NOT_SET}}"}}
  - {{name: eu, service_key: {{}}, deployments: {{a: []}}, include: ["re:("]}}
keys:
  - {{name: a, key: short}}
  - {{name: a, hash: "sha256:12"}}
  - {{name: b, key_file: none.txt}}
  - hello
  - {{name: c, hash: "{hashed}"}}
  - {{name: d, hash: "{hashed}"}}
  - {{name: e, key: "{hashed}"}}
  - {{name: f, key: a-key-of-ours}}
  - {{name: g, hash: "{same}"}}
aliases: {{a: b, b: a, c: c, d: gpt-5}}
models: {{include: ["re:(", 5, [x]]}}
trusted_proxies: [10.0.0.0/8, proxy.local]
routing: {{strategies: {{"gpt-*": fastest}}, weights: {{x: .nan}}, limits: {{x: 0}}}}
tls_certificate: no.pem
log_level: loud
workers: 1000
"""
    found = problems(tmp_path, text)
    for wanted in (
        ":1: port must be a whole number.",
        ":2: hots is not a setting: did you mean 'host'?",
        ":6: subaccounts[0].service_key_file is no use: missing.json: cannot be read: No such file or directory.",
        ":7: subaccounts[0].resource_group is not a setting: did you mean 'resource_groups'?",
        ":8: subaccounts[1].service_key.clientid needs the variable NOT_SET, which is not set.",
        ":8: subaccounts[1].name is missing.",
        ":9: subaccounts[2].name stands twice: subaccounts[0] is called 'eu' too.",
        ":9: subaccounts[2].deployments.a must be a name with the id of at least one deployment.",
        ":9: subaccounts[2].include[0] is not a regular expression after re:.",
        ":12: keys[1].name stands twice: keys[0] is called 'a' too.",
        ":12: keys[1].hash must be sha256: and 64 hexadecimal digits, the SHA-256 of the key.",
        ":13: keys[2].key_file is no use: none.txt: cannot be read: No such file or directory.",
        ":14: keys[3] must be names with values.",
        ":16: keys[5] is the same key as keys[4].",
        ":17: keys[6].key is a hash: that goes into hash.",
        ":19: keys[8] is the same key as keys[7].",
        ":20: aliases.a leads to the alias 'b': name the model itself.",
        ":20: aliases.c leads to itself: name the model as SAP does.",
        ":21: models.include[0] is not a regular expression after re:.",
        ":21: models.include[2] must be a text.",
        ":22: trusted_proxies[1] must be an IP address, or a network like 10.0.0.0/8.",
        ":23: routing.weights.x must be a number.",
        ":23: routing.limits.x must be at least 1.",
        ":24: tls_certificate cannot be read: no.pem: No such file or directory.",
        ":25: log_level must be one of debug, info, warning, error.",
        ":26: workers must be between 1 and 256.",
    ):
        assert f"aicore-proxy.yaml{wanted}" in found
    assert any(problem.startswith("aicore-proxy.yaml:11: keys[0].key must be a key of 8 to") for problem in found)
    lines = [int(problem.split(":")[1]) for problem in found if problem.startswith("aicore-proxy.yaml:")]
    assert lines == sorted(lines)


def test_what_stands_beside_each_other(tmp_path: Path) -> None:
    (tmp_path / "tls.pem").write_text("x")
    (tmp_path / "keys").mkdir()
    found = loaded(tmp_path, "tls_certificate: tls.pem\nservice_keys: keys\nrecord_folder: ~/tapes", HOME=str(tmp_path))
    assert (found.settings.tls_certificate, found.settings.service_keys) == (f"{tmp_path}/tls.pem", f"{tmp_path}/keys")
    assert Path(found.settings.record_folder).is_absolute()
    text = "tls_key: tls.pem\nservice_keys: keys\nsubaccounts: [{name: a, service_key: {clientid: b}}]"
    assert problems(tmp_path, text) == [
        "aicore-proxy.yaml:1: tls_key needs tls_certificate beside it.",
        "aicore-proxy.yaml:2: service_keys and subaccounts: one of them, not both.",
    ]


def test_a_public_address_needs_a_key(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, "host: 0.0.0.0")
    assert said.startswith("aicore-proxy.yaml:1: host lets others in: set AICORE_PROXY_API_KEY")
    assert "AICORE_PROXY_HOST: host" in problems(tmp_path, "", AICORE_PROXY_HOST="::")[0]
    for key in ("api_key: a-good-key", "keys: [{name: a, key: a-good-key}]"):
        assert loaded(tmp_path, f"host: 0.0.0.0\n{key}").settings.host == "0.0.0.0"
    # Where the key could not be read, that is what is said
    assert [words for words in problems(tmp_path, "host: ''\napi_key_file: none") if "lets others" in words] == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("port: 1\nkeys: [a\nb: {", "aicore-proxy.yaml:3: not valid YAML"),
        ("a:\n\tb: 1", "aicore-proxy.yaml:2: not valid YAML: a tab stands where only spaces may."),
        ("port: 1\nhost: a\nport: 2", "aicore-proxy.yaml:3: 'port' stands twice."),
        ("models: {include: [], include: []}", "aicore-proxy.yaml:1: 'models.include' stands twice."),
        ("- port: 1", "aicore-proxy.yaml: must hold settings, one 'name: value' a line."),
        ("port", "aicore-proxy.yaml: must hold settings, one 'name: value' a line."),
        ("a: 1\n---\nb: 2", "aicore-proxy.yaml:2: a second document begins: one is enough."),
        ("keys: {a: ${X}}", "needs quotes"),
        ("api_key: @x", "needs quotes"),
        ("? [a, b]\n: 1", "aicore-proxy.yaml:1: the name of a setting must be a text."),
        ("a: &a [*a]", "aicore-proxy.yaml:1: not valid YAML: * names nothing that stands before it"),
        ("[" * 5000, "aicore-proxy.yaml:1: nested too deeply."),
        ("a: \x07", "aicore-proxy.yaml: not valid YAML: it has a control character."),
        ("#" * 1_100_000, "aicore-proxy.yaml: larger than 1 MiB, so it is no such file."),
        ("a: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 12)), "too many values"),
        ("".join(f"a{n}: &a{n} [*a{n - 1}]\n" if n else "a0: &a0 []\n" for n in range(99)), "nested too deeply"),
        ("a: [" + "1," * 30_000 + "]", "aicore-proxy.yaml:1: too many values."),
        ("keys: [{<<: [1]}]", "aicore-proxy.yaml:1: << must be followed by names with values."),
    ],
)
def test_a_file_that_is_no_yaml_is_told_with_its_line(tmp_path: Path, text: str, wanted: str) -> None:
    assert wanted in "\n".join(problems(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"port": 1,\n "host": }', "aicore-proxy.json:2: not valid JSON: Expecting value (column 10)."),
        ('{"port": 1, "port": 2}', "aicore-proxy.json: 'port' stands twice."),
        ("[]", "aicore-proxy.json: must hold an object with settings."),
        ('{"a":' * 3000 + "1" + "}" * 3000, "aicore-proxy.json: nested too deeply"),
        ('{"port": ' + "9" * 5000 + "}", "aicore-proxy.json: nested too deeply, or with a number that is too long."),
        ('{"port": 3001.5}', "aicore-proxy.json:1: port must be a whole number."),
        ('{"hold": NaN}', "aicore-proxy.json:1: hold must be more than 0 and less than 1e9."),
        ('{"aliases": {"\\ud800": "x"}}', "half of a character"),
        ('{\n\t"keys": [\n\t\t{"name": "a", "key": 5}\n]}', "aicore-proxy.json:3: keys[0].key must be a key of 8"),
        ('{"a\\u001b[31m": 1}', "aicore-proxy.json:1: a\\x1b[31m is not a setting"),
    ],
)
def test_a_file_that_is_no_json_is_told(tmp_path: Path, text: str, wanted: str) -> None:
    assert wanted in "\n".join(problems(tmp_path, text, "aicore-proxy.json"))


def test_files_that_are_none(tmp_path: Path) -> None:
    def said(file: Path) -> str:
        with pytest.raises(SettingsError) as caught:
            load({}, cwd=tmp_path, file=file)
        return "\n".join(caught.value.problems)

    assert said(tmp_path) == f"{tmp_path}: cannot be read: Is a directory."
    assert "No such file or directory" in said(Path("none.yaml"))
    assert "No such file or directory" in said(Path("~nobody-of-this-name/x.yaml"))
    assert "larger than 1 MiB" in said(Path("/dev/zero"))
    (tmp_path / "utf16.yaml").write_bytes("port: 1".encode("utf-16"))
    assert "must be UTF-8, but it is UTF-16" in said(Path("utf16.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"# caf\xe9")
    assert "there is something else at byte 5" in said(Path("latin.yaml"))
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "cannot be read" in said(Path("loop.yaml"))
    for empty in (b"", b"# nothing", b"---\n", b"\xef\xbb\xbfport: 3001"):
        (tmp_path / "empty.yaml").write_bytes(empty)
        assert load({}, cwd=tmp_path, file=Path("empty.yaml")).settings == Settings()
    if os.geteuid():
        (tmp_path / "empty.yaml").chmod(0)
        assert "Permission denied" in said(Path("empty.yaml"))


def test_yaml_is_read_as_people_mean_it(tmp_path: Path) -> None:
    text = """
        openapi: no
        aliases: {no: gpt-5, "on": gpt-5, 1: gpt-5-mini}
        routing: {weights: {eu: 2}}
    """
    assert problems(tmp_path, text) == ["aicore-proxy.yaml:2: openapi must be true or false."]
    found = loaded(tmp_path, text.replace("openapi: no", "openapi: false")).settings
    assert found.aliases == {"no": "gpt-5", "on": "gpt-5", "1": "gpt-5-mini"}
    assert (found.openapi, found.routing.weights) == (False, {"eu": 2.0})
    merged = "x: &x {name: a, owner: me}\nkeys:\n  - {<<: *x, key: first-key}\n  - {<<: *x, name: b, key: second-key}"
    assert problems(tmp_path, merged) == [
        "aicore-proxy.yaml:1: x is not a setting (`aicore-proxy config schema` has them all)."
    ]
    keys = loaded(
        tmp_path, merged.replace("x: &x {name: a, owner: me}\n", "").replace("{<<: *x, k", "&x {name: a, owner: me, k")
    ).settings.keys
    assert [(key.name, key.owner) for key in keys] == [("a", "me"), ("b", "me")]


def test_members_of_a_service_key_are_texts_whatever_the_format(tmp_path: Path) -> None:
    members = '{"clientid": 12, "clientsecret": 0.5, "url": "u", "x": [true, null, {"y": 1e400}]}'
    wanted = {"clientid": "12", "clientsecret": "0.5", "url": "u", "x": [True, None, {"y": "inf"}]}
    (tmp_path / "key.json").write_text(members)
    first, second = f'{{"name": "a", "service_key": {members}}}', '{"name": "b", "service_key_file": "key.json"}'
    text = f'{{"subaccounts": [{first}, {second}]}}'
    for one in loaded(tmp_path, text, "aicore-proxy.json").settings.subaccounts:
        assert one.service_key == wanted
    (tmp_path / "aicore-proxy.json").unlink()
    found = loaded(tmp_path, "subaccounts: [{name: a, service_key: {clientid: 0012, clientsecret: 1e5}}]").settings
    assert found.subaccounts[0].service_key == {"clientid": "0012", "clientsecret": "1e5"}


def test_both_files_and_plain_secrets_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-key-of-ours")
    (tmp_path / "list.json").write_text("[]")
    text = """
subaccounts:
  - {name: a, service_key: {clientid: b}, service_key_file: key}
  - {name: b, service_key_file: list.json}
  - {name: c, service_key: "[]"}
keys:
  - {name: a, key: a-key-of-ours, key_file: key}
  - {name: b}
routing: {fallback_on: [boredom], strategies: {"re:(": auto}, tiers: {a: 5000},
  first_byte_timeouts: {"re:(": 5, x: 0, "gpt-*": 20},
  adaptive_limits: {"re:(": true, "gpt-*": 5, "claude-*": false}}
adaptive_start: 0
"""
    assert problems(tmp_path, text) == [
        "aicore-proxy.yaml:3: subaccounts[0].service_key_file and service_key: one of them, not both.",
        "aicore-proxy.yaml:4: subaccounts[1].service_key_file is not a service key, which is a JSON object: list.json.",
        "aicore-proxy.yaml:5: subaccounts[2].service_key must be names with values, or a text of JSON with them.",
        "aicore-proxy.yaml:7: keys[0] needs one of key, key_file and hash.",
        "aicore-proxy.yaml:8: keys[1] needs one of key, key_file and hash.",
        "aicore-proxy.yaml:9: routing.strategies.re:( is not a regular expression after re:.",
        "aicore-proxy.yaml:9: routing.tiers.a must be between -1000 and 1000.",
        "aicore-proxy.yaml:9: routing.fallback_on[0] must be one of overload, context_too_long, content_filter.",
        "aicore-proxy.yaml:10: routing.first_byte_timeouts.re:( is not a regular expression after re:.",
        "aicore-proxy.yaml:10: routing.first_byte_timeouts.x must be more than 0 and at most 86400.",
        "aicore-proxy.yaml:11: routing.adaptive_limits.gpt-* must be true or false.",
        "aicore-proxy.yaml:11: routing.adaptive_limits.re:( is not a regular expression after re:.",
        "aicore-proxy.yaml:12: adaptive_start must be between 1 and 1000000000.",
    ]


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"HOME": ""}).settings == Settings()
