"""Where compiled kernels are kept: what lies there is run as this user, so nobody else may write there.

Whoever owns a folder may swap all that lies below it at any time. So a folder is this user's own only if each
folder above it belongs to this user or to root, and can be changed by no other.
"""

import atexit
import grp
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path


def own_folder(choices: Sequence[Path], *, chosen: Path | None = None) -> Path:
    """Return the first of some folders that can be made and written, and changed by this user alone.

    Where none can, it is a new one among the temporary files, which this process removes at its end.

    Args:
        choices: the usual places.
        chosen: a place that the user named, who answers for what is above it; it comes first.
    """
    for choice in [*([chosen] if chosen else []), *choices]:
        if folder := _usable(choice, whole=choice is not chosen):
            return folder
    # `mkdtemp` takes a name that nobody has, with mode 0700.
    folder = Path(tempfile.mkdtemp(prefix="stin-pipe-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _usable(folder: Path, *, whole: bool) -> Path | None:
    """Make a folder; return its real path if it is this user's own and can be written, else None."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A link on the way may be another's, who could turn it later: it is followed once, here.
        real = Path(os.path.realpath(folder))
        if not _is_own(real, whole=whole):
            return None
        with tempfile.TemporaryFile(dir=real):
            return real
    except OSError:
        return None


def _is_own(real: Path, *, whole: bool) -> bool:
    """Open part after part of a real path, each from the one above it and none by a link, and judge each."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open("/", flags)
    try:
        for part in real.parts[1:]:
            inner = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
            if whole and not _is_guarded(os.fstat(descriptor)):
                return False
        status = os.fstat(descriptor)
        return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    finally:
        os.close(descriptor)


def _is_guarded(status: os.stat_result) -> bool:
    if status.st_uid not in (os.getuid(), 0):
        return False
    # In a sticky folder such as /tmp others may add names, but not take away ours.
    if status.st_mode & stat.S_ISVTX or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    return not status.st_mode & stat.S_IWOTH and _is_private_group(status.st_gid)


def _is_private_group(group: int) -> bool:
    """Tell whether a group is root's, or the one of this user alone that many systems make for each."""
    try:
        return group == 0 or grp.getgrgid(group).gr_name == pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return False
