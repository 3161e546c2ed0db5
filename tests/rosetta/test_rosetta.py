"""Every folder says the same in every dialect, less what its ``losses.json`` lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.rosetta.folders import (
    DIALECTS,
    Folder,
    answering,
    as_a_client_asks,
    decoded,
    differences,
    encoded,
    events_of,
    folders,
    loss_line,
    read_back,
    stream_of,
)

from aicore_proxy.protocol.dialects import Dialect
from aicore_proxy.protocol.fault import Fault
from aicore_proxy.protocol.framing import SseDecoder
from aicore_proxy.protocol.neutral import Failure
from aicore_proxy.protocol.pipe import Pipe, Relay, Translation

FOLDERS = folders()
each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
each_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def golden(path: Path, text: str, *, update: bool) -> None:
    if update:
        path.write_text(text)
    assert path.read_text() == text, f"{path.name} differs; review pytest --update-golden"


def made(folder: Folder, dialect: Dialect) -> dict[str, str]:
    """The files of one dialect."""
    files = {f"{dialect.name}.request.json": pretty(encoded(folder, dialect).body)}
    if folder.answer is not None:
        answer = dialect.encode_response(folder.answer, answering(folder, dialect))
        files[f"{dialect.name}.response.json"] = pretty(answer)
    if folder.fault is not None:
        status, body = dialect.encode_fault(folder.fault, "req_1")
        files[f"{dialect.name}.error.json"] = pretty({"status": status, "body": body})
    files[f"{dialect.name}.stream.txt"] = stream_of(folder, dialect).decode()
    return files


def lost(folder: Folder, dialect: Dialect) -> dict[str, Any]:
    """What this dialect cannot say of a folder, from its files."""
    result: dict[str, Any] = {
        "losses": [loss_line(loss) for loss in encoded(folder, dialect).losses],
        "request": differences(folder.request, decoded(folder, dialect, folder.json(f"{dialect.name}.request.json"))),
    }
    if folder.response is not None:
        body = folder.json(f"{dialect.name}.response.json")
        result["response"] = differences(folder.response, dialect.decode_response(body))
    result = {name: value for name, value in result.items() if value}
    said = differences(folder.request, as_a_client_asks(folder, dialect))
    return result if said == result.get("request", {}) else {**result, "client": said}


@each_folder
@each_dialect
def test_the_neutral_form_encodes_to_every_file(folder: Folder, dialect: Dialect, update_golden: bool) -> None:
    for name, text in made(folder, dialect).items():
        golden(folder.file(name), text, update=update_golden)


@each_folder
def test_every_file_decodes_to_the_neutral_form(folder: Folder, update_golden: bool) -> None:
    losses = {name: found for name, dialect in DIALECTS.items() if (found := lost(folder, dialect))}
    golden(folder.file("losses.json"), pretty(losses), update=update_golden)


@each_folder
@each_dialect
def test_the_stream_says_what_the_whole_answer_says(folder: Folder, dialect: Dialect) -> None:
    wire = folder.file(f"{dialect.name}.stream.txt").read_bytes()
    if folder.fault is not None:
        assert [fault.message for fault in faults_in(dialect, wire)] == [folder.fault.message]
        return
    whole = dialect.decode_response(folder.json(f"{dialect.name}.response.json"))
    assert differences(whole, read_back(dialect, wire)) == {}


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder.fault], ids=lambda folder: folder.name)
@each_dialect
def test_an_error_answer_is_read_as_it_was_meant(folder: Folder, dialect: Dialect) -> None:
    assert folder.fault is not None
    answer = folder.json(f"{dialect.name}.error.json")
    fault = dialect.decode_fault(answer["status"], answer["body"])
    assert fault is not None
    assert (fault.message, fault.kind) == (folder.fault.message, folder.fault.kind)


def test_nothing_else_lies_in_the_folders() -> None:
    for folder in FOLDERS:
        expected = {"neutral.json", "losses.json"} | {
            name for dialect in DIALECTS.values() for name in made(folder, dialect)
        }
        assert {path.name for path in folder.path.iterdir()} == expected


PAIRS = [
    pytest.param(folder, source, target, id=f"{folder.name}-{source.name}-{target.name}")
    for folder in FOLDERS
    for source in DIALECTS.values()
    for target in DIALECTS.values()
]


@pytest.mark.parametrize(("folder", "source", "target"), PAIRS)
def test_all_pairs_of_requests_follow(folder: Folder, source: Dialect, target: Dialect) -> None:
    """What a client of one dialect asks goes up in another as the folder has it, where the first can say all of it."""
    told = folder.losses.get(source.name, {})
    if told.get("request") or source is target:
        return
    asked = decoded(folder, source, folder.json(f"{source.name}.request.json"))
    body = encoded(folder, target, replace(asked, stream_usage=folder.request.stream_usage)).body
    assert body == folder.json(f"{target.name}.request.json")


@pytest.mark.parametrize(("folder", "source", "target"), PAIRS)
def test_all_pairs_of_streams_follow(folder: Folder, source: Dialect, target: Dialect) -> None:
    """An upstream's stream becomes the client's as the folder has it, where the first can say all of it; relayed, it
    is the same payloads."""
    wire = folder.file(f"{source.name}.stream.txt").read_bytes()
    expected = folder.file(f"{target.name}.stream.txt").read_bytes()
    asked = answering(folder, target)
    if folder.fault is not None:
        pipe: Pipe = Translation(source, target, SseDecoder(), asked)
        out = pipe.feed(wire) + pipe.end()
        assert [(fault.message, fault.kind) for fault in faults_in(target, out)] == [
            (fault.message, fault.kind) for fault in faults_in(target, expected)
        ]
    elif source is target:
        stripped = b"".join(b"data: " + frame.data + b"\n\n" for frame in SseDecoder().feed(wire))
        pipe = Relay(target, SseDecoder(), asked)
        assert pipe.feed(stripped) + pipe.end() == expected
    elif not folder.losses.get(source.name, {}).get("response"):
        pipe = Translation(source, target, SseDecoder(), asked)
        out = pipe.feed(wire) + pipe.end()
        assert differences(read_back(target, out), read_back(target, expected)) == {}


def faults_in(dialect: Dialect, wire: bytes) -> list[Fault]:
    return [event.fault for event in events_of(dialect, wire) if isinstance(event, Failure)]
