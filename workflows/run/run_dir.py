"""The run directory: opened, made, and described by `run.json`, which says how everything in it was made."""

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.from_json import from_json, shown
from stin_pipe.stin.shards.publish import publish_json
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import FORMAT_VERSION
from stin_pipe.workflows.run.lock import short_turn

RECORDED_PACKAGES = (
    *("stin-pipe", "torch", "numpy", "ray", "h5py", "numba"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)
_MAX_COMMANDS = 200
_RUN = FileKind(name="record of the run", next_step="restore it, or use a new --run")


def create_run(path: Path) -> RunDir:
    """Open a run directory; make it if it is missing.

    Raises:
        StinPipeError: the path is a file, not writable, or a folder of other things.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StinPipeError(f"--run {path}: is not a folder") from error
    except OSError as error:
        raise StinPipeError(f"--run {path}: cannot be made: {error.strerror}") from error
    require_no_other_things(path)
    return _checked(path)


def require_no_other_things(path: Path) -> None:
    """Refuse a folder that holds other things and no run.

    Raises:
        StinPipeError: names the folder.
    """
    # A process killed before its first run.json was whole leaves `extract` and what it was writing.
    others = [item for item in path.iterdir() if item.name != "extract" and ".run.json." not in item.name]
    if others and not (path / "run.json").exists():
        raise StinPipeError(
            f"--run {path}: the folder holds other things and no run.json; give a new or empty folder"
        )


def open_run(path: Path) -> RunDir:
    """Open an existing run directory.

    Raises:
        StinPipeError: it is not there, not readable, or of another format version.
    """
    if not path.is_dir():
        state = "is not a folder" if path.exists() else "does not exist"
        hint = "" if path.exists() else "; is it misspelled?"
        raise StinPipeError(
            f"--run {path}: {state}{hint}; `stin-pipe extract --run {path} --videos DIR` makes a new run"
        )
    try:
        is_run = (path / "run.json").exists()
    except OSError as error:
        raise StinPipeError(f"--run {path}: cannot be read: {error.strerror}") from error
    if not is_run:
        raise StinPipeError(
            f"--run {path}: not a run directory (no run.json); "
            f"`stin-pipe extract --run {path} --videos DIR` makes one"
        )
    return _checked(path)


def read_run_json(path: Path) -> dict[str, Any]:
    """Return the content of `run.json`; that of a new run if there is none.

    Raises:
        StinPipeError: it is damaged or of another format version.
    """
    file = path / "run.json"
    try:
        value = read_json(file, _RUN)
    except FileNotFoundError:
        return {"format_version": FORMAT_VERSION, "commands": []}
    version = value.get("format_version")
    if version != FORMAT_VERSION:
        raise StinPipeError(
            f"{file}: the run has format version {shown(version)}, but this program reads version "
            f"{FORMAT_VERSION}; use the program version that made it, or a new --run"
        )
    try:
        from_json(tuple[Mapping[str, Any], ...], value.get("commands"), name="commands")
    except ValueError as error:
        raise UnreadableFileError(file, _RUN, str(error)) from error
    return value


@contextmanager
def recorded(run: RunDir, command: str, config: Mapping[str, Any]) -> Iterator[None]:
    """Write command line, resolved configuration, versions and times of a stage into `run.json`."""
    entry: dict[str, Any] = {
        "command": command,
        "argv": sys.argv[1:],
        "config": json.loads(json.dumps(config, default=str)),
        "versions": _versions(),
        "host": platform.node(),
        "process_id": os.getpid(),
        "started": _now(),
        "finished": None,
        "outcome": "running",
    }
    # Written at the start already: a process that is killed leaves a record of what it was doing.
    _append(run, entry)
    try:
        yield
        entry["outcome"] = "done"
    except BaseException as error:
        entry["outcome"] = f"{type(error).__name__}: {error}"[:500]
        raise
    finally:
        entry["finished"] = _now()
        _append(run, entry)


def _append(run: RunDir, entry: dict[str, Any]) -> None:
    """Add the entry, or replace the one of the same start; other processes may do so at the same time."""
    # Together these name one start of one command: process ids repeat, and so do times on two hosts.
    parts = ("command", "started", "argv", "host", "process_id")
    same = [entry[part] for part in parts]
    with short_turn(run.path / ".run.json.lock"):
        value = read_run_json(run.path)
        others = [old for old in value["commands"] if [old.get(part) for part in parts] != same]
        publish_json(run.path / "run.json", value | {"commands": [*others, entry][-_MAX_COMMANDS:]})


def _checked(path: Path) -> RunDir:
    try:
        read_run_json(path)
    except PermissionError as error:
        raise StinPipeError(f"--run {path}: cannot be read: {error.strerror}") from error
    return RunDir(path=path.absolute())


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
