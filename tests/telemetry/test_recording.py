"""Recordings: four stages of a request in a file, without a credential; for some keys, for a time, and then deleted."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.asking import PATHS, body, simulate
from tests.end_to_end.conftest import KEY, Proxy, Simulator, environment, running_proxy, running_simulator
from tests.telemetry.conftest import CLAUDE, GPT

from aicore_proxy.telemetry.recording import sweep

OTHER = "sk-another-client-key"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Simulator, Proxy, Path]]:
    home = tmp_path_factory.mktemp("recording")
    landscape = {"subaccounts": [{"name": name, "models": [GPT, CLAUDE]} for name in ("sub-0", "sub-1")]}
    (home / "proxy.yaml").write_text(f"keys: [{{name: other, key: {OTHER}}}]\n")
    folder = home / "recordings"
    settings = {"record_keys": "default", "record_folder": str(folder), "config": str(home / "proxy.yaml")}
    with (
        running_simulator(home, landscape=landscape) as simulator,
        running_proxy(home, simulator, **settings) as proxy,
    ):
        yield simulator, proxy, folder


def recording(folder: Path, request_id: str) -> dict[str, Any]:
    """The one file of a request, once it is there."""
    deadline = time.monotonic() + 5
    while not (found := list(folder.glob(f"*-{request_id}.recording.json"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    [path] = found
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    told: dict[str, Any] = json.loads(path.read_text())
    return told


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("protocol", "model"), [("chat", GPT), ("chat", CLAUDE), ("messages", CLAUDE)])
def test_what_was_sent_and_got_is_there_byte_for_byte(
    house: tuple[Simulator, Proxy, Path], protocol: str, model: str, stream: bool
) -> None:
    simulator, proxy, folder = house
    asked = json.dumps(body(protocol, model, simulate(text="fine wörds"), stream=stream))
    answer = proxy.http.post(PATHS[protocol], content=asked, headers={"content-type": "application/json"})
    told = recording(folder, answer.headers["x-request-id"])

    assert (told["key"], told["status"], told["model"]) == ("default", 200, model)
    assert told["client_request"]["method"] == "POST"
    assert told["client_request"]["target"] == PATHS[protocol]
    assert told["client_request"]["body"]["text"] == asked
    assert told["client_response"]["status"] == 200
    assert told["client_response"]["body"]["text"] == answer.text
    assert dict(told["client_response"]["headers"])["content-type"] == answer.headers["content-type"]
    [attempt] = told["attempts"]
    sent = simulator.requests()[-1]
    assert sent["path"] in attempt["request"]["target"]
    assert json.loads(attempt["request"]["body"]["text"]) == sent["body"]
    assert attempt["response"]["status"] == 200
    assert attempt["response"]["body"]["size"] > 0
    pieces = told["client_response"]["body"]["pieces"]
    assert sum(size for _, size in pieces) == len(answer.content)
    assert [at for at, _ in pieces] == sorted(at for at, _ in pieces)


def test_each_attempt_and_each_fault_is_there(house: tuple[Simulator, Proxy, Path]) -> None:
    simulator, proxy, folder = house
    simulator.script({"status": 503, "message": "no healthy words"})
    refused = proxy.http.post(PATHS["messages"], json=body("messages", CLAUDE, "Hello!", stream=True))
    simulator.script({"events": 9, "cut_after": 3})
    cut = proxy.http.post(PATHS["messages"], json=body("messages", CLAUDE, "Hello!", stream=True))
    simulator.script({"reset": True})
    reset = proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!"))
    simulator.clear()
    unknown = proxy.http.post(PATHS["chat"], json=body("chat", "nothing", "Hello!"))

    told = recording(folder, refused.headers["x-request-id"])
    assert [a["response"]["status"] for a in told["attempts"]] == [503, 503]
    assert all("no healthy words" in a["response"]["body"]["text"] for a in told["attempts"])
    assert (told["status"], told["client_response"]["status"]) == (refused.status_code, refused.status_code)
    assert told["client_response"]["body"]["text"] == refused.text

    told = recording(folder, cut.headers["x-request-id"])
    assert told["client_response"]["body"]["text"] == cut.text
    assert told["attempts"][-1]["response"]["error"]

    told = recording(folder, reset.headers["x-request-id"])
    assert all(a["response"]["error"] and a["response"]["status"] == 0 for a in told["attempts"])

    told = recording(folder, unknown.headers["x-request-id"])
    assert (told["attempts"], told["client_response"]["status"]) == ([], 404)


def test_no_credential_is_in_any_file(house: tuple[Simulator, Proxy, Path]) -> None:
    simulator, proxy, folder = house
    ids = []
    simulator.revoke_tokens()  # so that a token is asked for, from within a request
    for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY, "cookie": f"a={KEY}"}, {"api-key": KEY}):
        asked = proxy.http.build_request("POST", f"{PATHS['chat']}?x=1&key={KEY}", json=body("chat", GPT, "Hello!"))
        del asked.headers["authorization"]
        asked.headers.update(headers)
        ids.append(proxy.http.send(asked).headers["x-request-id"])
    told = [recording(folder, one) for one in ids]

    assert {one["client_request"]["target"] for one in told} == {f"{PATHS['chat']}?x=1&key=****"}
    assert all(dict(one["attempts"][0]["request"]["headers"])["Authorization"] == "****" for one in told)
    text = "".join(path.read_text() for path in folder.iterdir())
    secrets = [KEY, *(key["clientsecret"] for key in simulator.service_keys().values())]
    tokens = [entry["headers"].get("authorization", "").partition(" ")[2] for entry in simulator.requests()]
    assert [secret for secret in (*secrets, *filter(None, tokens)) if secret in text] == []
    assert "oauth" not in text


def test_other_keys_are_not_recorded(house: tuple[Simulator, Proxy, Path]) -> None:
    _, proxy, folder = house
    asked = body("chat", GPT, "Hello!")
    other = proxy.http.post(PATHS["chat"], json=asked, headers={"authorization": f"Bearer {OTHER}"})
    wrong = proxy.http.post(PATHS["chat"], json=asked, headers={"authorization": "Bearer a-wrong-client-key"})
    assert (other.status_code, wrong.status_code) == (200, 401)
    recording(folder, proxy.http.post(PATHS["chat"], json=asked).headers["x-request-id"])

    names = "".join(path.name for path in folder.iterdir())
    assert other.headers["x-request-id"] not in names
    assert wrong.headers["x-request-id"] not in names


@pytest.mark.timed
def test_it_ends_by_itself_and_is_deleted_by_itself(house: tuple[Simulator, Proxy, Path], tmp_path: Path) -> None:
    simulator, _, _ = house
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=8)
    settings = {"record_keys": "*", "record_until": until.isoformat(), "record_hours": f"{1 / 3600:f}"}
    with running_proxy(tmp_path, simulator, **settings) as proxy:
        folder = tmp_path / "state" / "aicore-proxy" / "recordings"
        first = proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!"))
        assert recording(folder, first.headers["x-request-id"])["key"] == "default"
        while datetime.datetime.now(datetime.UTC) < until:
            time.sleep(0.05)
        proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!"))
        deadline = time.monotonic() + 10
        while list(folder.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_oldest_go_first_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    for age in range(5):
        path = tmp_path / f"{age}.recording.json"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000.0 - age, 1000.0 - age))
    (tmp_path / "killed.recording.part").write_bytes(b"x")
    os.utime(tmp_path / "killed.recording.part", (900.0, 900.0))
    (tmp_path / "notes.json").write_bytes(b"x" * 1000)

    sweep(tmp_path, 3.5, 10_000, 1000.0)
    assert {path.name for path in tmp_path.iterdir()} == {*(f"{n}.recording.json" for n in range(4)), "notes.json"}
    sweep(tmp_path, 3600.0, 250, 1000.0)
    assert {path.name for path in tmp_path.iterdir()} == {"0.recording.json", "1.recording.json", "notes.json"}
    sweep(tmp_path / "nowhere", 1.0, 1, 1000.0)


def replayed(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aicore_proxy", "replay", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment(home), timeout=60)


def test_a_recorded_request_can_be_sent_again(house: tuple[Simulator, Proxy, Path], tmp_path: Path) -> None:
    simulator, proxy, folder = house
    asked = json.dumps(body("messages", CLAUDE, simulate(text="fine wörds"), stream=True), ensure_ascii=False)
    answer = proxy.http.post(f"{PATHS['messages']}?beta=true", content=asked.encode())
    told = recording(folder, wanted := answer.headers["x-request-id"])
    path = next(folder.glob(f"*-{wanted}.recording.json"))
    way = ("--url", proxy.url, "--key", KEY)

    again = replayed(tmp_path, str(path), "--show", *way)
    assert again.returncode == 0, again.stderr
    assert "fine wörds" in again.stdout
    assert "then: 200" in again.stderr
    assert "now:  200" in again.stderr
    sent = simulator.requests()[-2:]
    assert sent[0]["body"] == sent[1]["body"]
    assert told["client_request"]["target"] == f"{PATHS['messages']}?beta=true"

    (tmp_path / "proxy.yaml").write_text(f"record_folder: {folder}\n")
    by_id = replayed(tmp_path, wanted, "--config", str(tmp_path / "proxy.yaml"), *way)
    assert by_id.returncode == 0, by_id.stderr

    simulator.script({"status": 429})
    other = replayed(tmp_path, str(path), *way)
    simulator.clear()
    assert other.returncode == 1
    assert "The status is another one." in other.stdout

    (tmp_path / "none.json").write_text("{}")
    assert "is no recording" in replayed(tmp_path, str(tmp_path / "none.json"), *way).stderr
    assert "There is no recording" in replayed(tmp_path, "req_unknown", *way).stderr
    assert "Traceback" not in replayed(tmp_path, str(path), "--url", "http://127.0.0.1:9", "--key", KEY).stderr
