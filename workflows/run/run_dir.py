"""The run directory: where each stage keeps its files, and `run.json`, which says how they were made."""

import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_json
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import FORMAT_VERSION

RECORDED_PACKAGES = (
    *("stin-pipe", "torch", "numpy", "ray", "h5py", "numba"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)
_MAX_COMMANDS = 200
_TRIES, _WAIT_S = 600, 0.05


def create_run(path: Path) -> RunDir:
    """Open a run directory, making it where it is missing.

    Raises:
        StinPipeError: the path is a file, not writable, or something else's folder.
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
    """Refuse the folder of something else for a run.

    Raises:
        StinPipeError: it holds other things and no run.
    """
    # A process killed before its first run.json was whole leaves `extract` and what it was writing.
    others = [item for item in path.iterdir() if item.name != "extract" and ".run.json." not in item.name]
    if others and not (path / "run.json").exists():
        raise StinPipeError(
            f"--run {path}: the folder holds other things and no run.json; give a new or empty one"
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
        known = (path / "run.json").exists()
    except OSError as error:
        raise StinPipeError(f"--run {path}: cannot be read: {error.strerror}") from error
    if not known:
        raise StinPipeError(
            f"--run {path}: not a run directory (no run.json); "
            f"`stin-pipe extract --run {path} --videos DIR` makes one"
        )
    return _checked(path)


def read_run_json(path: Path) -> dict[str, Any]:
    """Return the content of `run.json`, a fresh one when there is none.

    Raises:
        StinPipeError: it is damaged or of another format version.
    """
    file = path / "run.json"
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        version = value["format_version"]
    except FileNotFoundError:
        return {"format_version": FORMAT_VERSION, "commands": []}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StinPipeError(f"{file}: cannot be read ({error}); restore it, or use a new --run") from error
    if version != FORMAT_VERSION:
        raise StinPipeError(
            f"{file}: run of format version {version}, but this program reads version {FORMAT_VERSION}; "
            "use the program version that made it, or a new --run"
        )
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
    """Add the entry, or replace the one of the same start; stages of other processes may do so as well."""
    parts = ("command", "started", "argv", "host", "process_id")
    same = [entry[part] for part in parts]
    with _turn(run.path / ".run.json.lock"):
        value = read_run_json(run.path)
        others = [old for old in value["commands"] if [old.get(part) for part in parts] != same]
        publish_json(run.path / "run.json", value | {"commands": [*others, entry][-_MAX_COMMANDS:]})


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Wait for one's turn with the help of a lock file, but not for ever: what it guards is a record."""
    with path.open("ab") as file:
        for _ in range(_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_WAIT_S)
            except OSError:  # a file system without locks
                break
        yield


def _checked(path: Path) -> RunDir:
    try:
        read_run_json(path)
    except PermissionError as error:
        raise StinPipeError(f"--run {path}: cannot be read: {error.strerror}") from error
    return RunDir(path=path.absolute())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
