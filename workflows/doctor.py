"""`stin-pipe doctor`: what works on this machine, in one screen."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import click

from workflows.options import EXISTING_DIRECTORY, common_options
from workflows.output import Output, size

EXAMPLES = """\b
Example:
  stin-pipe doctor --folder runs
"""


class _Absent(Exception):
    """Something optional that this machine does not have."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the screen: `needed` checks that fail make the exit code 1."""

    name: str
    state: Literal["ok", "missing", "failed"]
    detail: str
    needed: bool = True


@click.command(epilog=EXAMPLES)
@click.option(
    "--folder",
    type=EXISTING_DIRECTORY,
    default=".",
    help="Where runs will be kept: its disk and file system are tried.",
)
@common_options
def doctor(output: Output, folder: Path) -> None:
    """Check Python, ffmpeg, flow, GPU, Ray, disk and shared memory; exit code 1 if a need is missing."""
    tests: list[tuple[str, Callable[[], str], bool]] = [
        ("python", lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}", True),
        ("ffmpeg", _ffmpeg, True),
        ("torch", lambda: _version("torch"), True),
        ("gpu", _gpu, False),
        ("opencv", lambda: _version("cv2"), True),
        ("flow", _flow, True),
        ("h5py", _hdf5, True),
        ("ray", lambda: _version("ray"), False),
        ("cores", lambda: f"{len(os.sched_getaffinity(0))} usable", True),
        ("disk", lambda: f"{size(shutil.disk_usage(folder).free)} free at {folder.absolute()}", True),
        ("shared memory", lambda: f"{size(shutil.disk_usage('/dev/shm').free)} free in /dev/shm", False),  # noqa: S108
        ("run folder", lambda: _publishing(folder), True),
    ]
    checks = [_check(name, test, needed) for name, test, needed in tests]
    for check in checks:
        output.show(f"{check.state:8}{check.name:15}{check.detail}")
    broken = [check.name for check in checks if check.needed and check.state != "ok"]
    output.show(
        f"not ready: {', '.join(broken)}" if broken else "ready: `stin-pipe demo` shows the whole pipeline"
    )
    code = 1 if broken else 0
    output.result({"checks": [asdict(check) for check in checks], "ready": not broken, "exit_code": code})
    if code:
        raise click.exceptions.Exit(code)


def _check(name: str, test: Callable[[], str], needed: bool) -> Check:
    try:
        return Check(name=name, state="ok", detail=test(), needed=needed)
    except (ImportError, _Absent) as error:
        return Check(name=name, state="missing", detail=str(error), needed=needed)
    except Exception as error:  # noqa: BLE001 - a broken part may fail in any way; the screen names it
        return Check(name=name, state="failed", detail=f"{type(error).__name__}: {error}", needed=needed)


def _version(module: str) -> str:
    return str(import_module(module).__version__)


def _ffmpeg() -> str:
    from pipeline.ffmpeg import WANTED_DECODERS, find_ffmpeg, missing_decoders

    program, lacking = find_ffmpeg(), missing_decoders()
    codecs = f"lacks {', '.join(lacking)}" if lacking else f"decodes {', '.join(WANTED_DECODERS)}"
    return f"{program.version} ({program.source}: {program.path}), {codecs}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise _Absent("no CUDA device that torch can use; flow and training run on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(names)}, CUDA {torch.version.cuda}"


def _flow() -> str:
    import numpy as np

    from pipeline.flow import resolve_backend, tvl1

    backend = resolve_backend("auto")
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (1, 32, 32), dtype=np.uint8)
    still = tvl1(frame, frame, backend=backend)
    if np.abs(still).max() > 0:
        raise RuntimeError(f"back end {backend}: identical frames gave motion")
    return f"auto is {backend}"


def _hdf5() -> str:
    import h5py

    with (
        tempfile.TemporaryDirectory() as folder,
        h5py.File(Path(folder) / "t.h5", "w", locking=False) as file,
    ):
        file.create_dataset("x", (4,), "u1", chunks=(4,), fletcher32=True)
    return f"{metadata.version('h5py')}, HDF5 {h5py.version.hdf5_version}"


def _publishing(folder: Path) -> str:
    """Try what a run needs of its file system: write, sync, rename, link."""
    from stin.shards.publish import publish_bytes

    with tempfile.TemporaryDirectory(dir=folder, prefix=".stin-pipe-doctor-") as name:
        path = Path(name) / "file"
        publish_bytes(path, b"x")
        publish_bytes(path, b"y")
        os.link(path, path.with_name("link"))
    return f"{folder.absolute()} can be written, renames and links are atomic"
