"""One extract at a time in a run, one training in a folder: a lock file that names its holder.

Network file systems refuse or fake `flock`, so the lock is a file that only one process can create. A holder
on this host is checked by process id, start time and boot id. A batch system may restart a job on another
host after the first host died; since it never runs a job twice at the same time, the lock of an earlier
attempt is free.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.from_json import from_json
from stin_pipe.stin.shards.publish import open_for_append, publish_new, temporary_name

BATCH_JOB = "STIN_PIPE_BATCH_JOB"
"""Environment variable that names the batch job; jobs of Slurm name themselves."""

_LOCK = FileKind(name="lock", max_bytes=1 << 16, next_step="delete it if no process works there")
_TURN_TRIES, _TURN_WAIT_S = 600, 0.05
_READ_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        start_ticks: when it started, in ticks since boot; process ids are reused.
        job: the batch job that it belongs to, empty outside of one.
        attempt: which attempt of that job.
    """

    host: str
    process_id: int
    start_ticks: int
    boot_id: str
    job: str = ""
    attempt: str = ""


@contextmanager
def run_lock(
    path: Path,
    *,
    activity: str = "extract",
    break_lock: bool = False,
    to_break: str = "give --break-lock to take over",
) -> Iterator[None]:
    """Hold the lock file `path` during the block.

    Args:
        path: the lock file.
        activity: what the lock guards, for messages.
        break_lock: take the lock even if a holder on another host may be alive.
        to_break: for messages: what to do about a holder on another host that is gone.

    Raises:
        StinPipeError: another process holds it; the message names that process.
    """
    # Created elsewhere and then linked, so that nobody ever reads a half-written lock.
    own = _own_identity()
    temporary = temporary_name(path)
    temporary.write_text(json.dumps(asdict(own)), encoding="utf-8")
    try:
        _take(temporary, path, break_lock, activity, to_break)
    finally:
        temporary.unlink(missing_ok=True)
    try:
        yield
    finally:
        # If somebody broke the lock in the meantime, it is theirs now.
        if read_holder(path) == own:
            path.unlink(missing_ok=True)


def read_holder(path: Path) -> Holder | None:
    """Return who holds the lock, None if nobody does.

    Raises:
        StinPipeError: the lock file is damaged.
    """
    try:
        return from_json(Holder, read_json(path, _LOCK), name="the lock")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UnreadableFileError(path, _LOCK, str(error)) from error


def is_alive(holder: Holder) -> bool | None:
    """Tell whether the holder still runs; None if it is on another host, where nobody here can look."""
    # Checked before the host: an attempt that died may have taken its host down with it.
    own = _own_identity()
    if own.job and holder.job == own.job and holder.attempt != own.attempt:
        return False
    if holder.host != own.host:
        return None
    if holder.boot_id != own.boot_id:
        return False
    return _start_ticks(holder.process_id) == holder.start_ticks


@contextmanager
def short_turn(path: Path) -> Iterator[None]:
    """Let processes take turns for an instant, with the help of a file that is locked during the block.

    Waiting ends after half a minute, and file systems without `flock` are passed over: what it guards is a
    record, and a lost line of that is better than a command that hangs.
    """
    with open_for_append(path) as file:
        for _ in range(_TURN_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_TURN_WAIT_S)
            except OSError:
                break
        yield


def _take(temporary: Path, path: Path, break_lock: bool, activity: str, to_break: str) -> None:
    for _ in range(2):  # once more after a dead holder's lock is out of the way
        try:
            publish_new(temporary, path)  # atomic, and fails when the lock exists, also over NFS
            return
        except FileExistsError:
            holder = _read_soon(path)
        if holder is None:
            continue
        alive = is_alive(holder)
        if alive or (alive is None and not break_lock):
            advice = "wait for it, or stop it" if alive else f"if it no longer runs there, {to_break}"
            raise StinPipeError(
                f"{path.parent}: another {activity} works here: process {holder.process_id} on host "
                f"{holder.host}; {advice}"
            )
        _set_aside(path, holder)
    raise StinPipeError(f"{path}: another process took the lock just now; try again")


def _read_soon(path: Path) -> Holder | None:
    """Return the holder; where there are no hard links, its lock may be empty for an instant."""
    for _ in range(_READ_TRIES):
        try:
            return read_holder(path)
        except UnreadableFileError:
            time.sleep(_TURN_WAIT_S)
    return read_holder(path)


def _set_aside(path: Path, stale: Holder) -> None:
    """Remove a dead holder's lock; put it back if another process has taken it in the meantime."""
    aside = temporary_name(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    try:
        if read_holder(aside) != stale:
            publish_new(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _own_identity() -> Holder:
    job, attempt = _batch_attempt()
    return Holder(
        host=socket.gethostname(),
        process_id=os.getpid(),
        start_ticks=_start_ticks(os.getpid()) or 0,
        boot_id=_boot_id(),
        job=job,
        attempt=attempt,
    )


def _batch_attempt() -> tuple[str, str]:
    """Return the batch job of this process, and which attempt of that job this is."""
    if name := os.environ.get(BATCH_JOB):
        return name, socket.gethostname()  # each attempt has pods of its own
    if number := os.environ.get("SLURM_JOB_ID"):
        cluster = os.environ.get("SLURM_CLUSTER_NAME", "")
        return f"slurm {cluster} {number}", os.environ.get("SLURM_RESTART_COUNT", "0")
    return "", ""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _start_ticks(process_id: int) -> int | None:
    """Return when a process started, in ticks since boot; None if there is no such process."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field, the program's name in brackets, may contain spaces and brackets itself.
    return int(text.rpartition(")")[2].split()[19])
