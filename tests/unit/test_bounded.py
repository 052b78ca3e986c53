"""Files that are no files, too large, too deep or too long: one kind of message, and never a wait."""

import json
import os
import socket
from copy import copy
from pathlib import Path

import pytest

from stin_pipe.stin.shards.bounded import (
    FileKind,
    UnreadableFileError,
    json_object,
    open_list,
    parse_json,
    read_bytes,
    read_json,
    read_json_lines,
    read_toml,
)
from stin_pipe.stin.shards.errors import StinPipeError

KIND = FileKind(name="thing", max_bytes=1 << 20, next_step="make it again")
READERS = (read_bytes, read_json, read_toml, open_list, lambda path, kind: list(read_json_lines(path, kind)))


def place(path: Path, what: str) -> None:
    if what == "a named pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    elif what == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.symlink_to({"a device": "/dev/zero", "a terminal": "/dev/tty"}[what])


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("what", ["a named pipe", "a folder", "a device", "a socket"])
def test_what_is_no_file_is_refused_without_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, read
) -> None:
    monkeypatch.chdir(tmp_path)  # the paths of sockets must be short
    path = Path("x")
    place(path, what)
    with pytest.raises(
        UnreadableFileError, match=r"^x: the thing cannot be read \(.*\); make it again$"
    ) as caught:
        read(path, KIND)
    if what != "a socket":  # the kernel does not even open it
        assert f"it is {what}, not a regular file" in str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_a_file_larger_than_its_kind_is_not_read(tmp_path: Path, read) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(200 << 30)  # holes only
    with pytest.raises(UnreadableFileError, match="larger than 1 MiB"):
        read(path, KIND)


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_is_missing(tmp_path: Path, read) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "x", KIND)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested more than 64 levels deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested more than 64 levels deep"),
        ('{"a":' * 66 + "1" + "}" * 66, "nested more than 64 levels deep"),
        ('{"a": ' + "9" * 100_000 + "}", "a number of more than 300 digits"),
        ('{"a": 0.' + "9" * 100_000 + "}", "a number of more than 300 digits"),
        ("[1, 2]", "it holds a list where an object belongs"),
        ("null", "it holds nothing where an object belongs"),
        ("7", "it holds a single value where an object belongs"),
        ("{half", "it is not JSON: Expecting property name"),
        ("", "it is not JSON"),
    ],
)
def test_json_is_bounded(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UnreadableFileError) as caught:
        read_json(path, KIND)
    message = str(caught.value)
    assert message.startswith(f"{path}: the thing cannot be read (") and message.endswith("; make it again")
    assert reason in message and len(message) < 400
    with pytest.raises(ValueError, match=r"^it (is|holds)"):
        json_object(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = " + "[" * 100_000, "nested more than 64 levels deep"),
        ("a = " + "[" * 70 + "]" * 70, "nested more than 64 levels deep"),
        ("a = " + "9" * 100_000, "a number of more than 300 digits"),
        ("a = 0." + "9" * 100_000, "a number of more than 300 digits"),
        ("a = ", "it is not TOML"),
    ],
)
def test_toml_is_bounded(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match=reason):
        read_toml(path, KIND)


def test_text_that_is_not_utf_8_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b'{"a": "\xff"}')
    for read in (read_json, read_toml):
        with pytest.raises(UnreadableFileError, match="not UTF-8 text: byte 7"):
            read(path, KIND)
    assert list(read_json_lines(path, KIND)) == []


def test_what_is_whole_comes_back_as_it_is(tmp_path: Path) -> None:
    value = {
        "text": "über 日本 😀",
        "numbers": [1, -2, 0.1, 1e300, 2**63],
        "deep": {"er": [[{}]]},
        "none": None,
    }
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode())
    with pytest.raises(UnreadableFileError, match="BOM"):
        read_json(path, KIND)
    path.write_text(json.dumps(value) + "\n{half\n" + json.dumps(value) + "\n[1]\n")
    assert list(read_json_lines(path, KIND)) == [value, value]
    assert parse_json(json.dumps(value)) == value
    deep = '{"a":' * 64 + "1" + "}" * 64
    assert parse_json(deep) == json.loads(deep)

    path.write_bytes(b"\xef\xbb\xbfa = 1\n[b]\nc = 'x'\n")
    assert read_toml(path, KIND) == {"a": 1, "b": {"c": "x"}}
    path.write_bytes(b"\xef\xbb\xbfone\r\n\xff\n")
    with open_list(path, KIND) as lines:
        assert list(lines) == ["one\r\n", "\udcff\n"]


def test_the_error_survives_the_way_from_a_worker(tmp_path: Path) -> None:
    error = UnreadableFileError(tmp_path, KIND, "it is torn")
    again = copy(error)  # by `__reduce__`, as pickle does
    assert isinstance(again, StinPipeError) and str(again) == str(error) and again.problem == error.problem
