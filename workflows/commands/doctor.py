"""`stin-pipe doctor`: what works on this machine, on one screen."""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import click

from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.workflows.terminal.exits import EXIT_FAILED
from stin_pipe.workflows.terminal.options import common_options
from stin_pipe.workflows.terminal.output import Output, size
from stin_pipe.workflows.terminal.types import EXISTING_DIRECTORY

EXAMPLES = """\b
Example:
  stin-pipe doctor --folder runs
"""

EXTRAS = {
    "cluster": (("ray", "many nodes, --train-workers"),),
    "report": (("tensorboard", "event files"), ("matplotlib", "pictures of ablations")),
    "cuda": (("numba-cuda", "flow on a GPU"),),
}
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written
WANTED_SHARED_BYTES = 1 << 30


class _Missing(Exception):
    """This machine lacks something, perhaps something optional."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the screen; the exit code is 1 if a needed one is not ok."""

    name: str
    state: Literal["ok", "missing", "failed"]
    detail: str
    needed: bool = True


@click.command(epilog=EXAMPLES)
@click.option(
    "--folder",
    type=EXISTING_DIRECTORY,
    default=".",
    help="Where runs will be kept; its disk and file system are checked.",
)
@common_options
def doctor(output: Output, folder: Path) -> None:
    """Check what works here: Python, ffmpeg, GPU, flow, disk, shared memory, locks, extras.

    The exit code is 1 if something necessary is missing.
    """
    tests: list[tuple[str, Callable[[], str], bool]] = [
        ("python", lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}", True),
        ("ffmpeg", _ffmpeg, True),
        ("torch", lambda: _version("torch"), True),
        ("gpu", _gpu, False),
        ("opencv", lambda: _version("cv2"), True),
        ("flow", _flow, True),
        ("h5py", _hdf5, True),
        ("cores", lambda: f"{usable_cpus()} usable", True),
        ("disk", lambda: f"{size(shutil.disk_usage(folder).free)} free at {folder.absolute()}", True),
        ("shared memory", lambda: _shared_memory(SHARED_MEMORY), False),
        ("run folder", lambda: _publishing(folder), True),
        ("file locks", lambda: _locks(folder), False),
        ("ray access", _ray_access, False),
        *((f"extra {name}", lambda name=name: _extra(name), False) for name in EXTRAS),
    ]

    # Each test imports what it needs itself: a library that cannot be imported is a finding, not a crash.
    checks = [_check(name, test, needed) for name, test, needed in tests]
    for check in checks:
        output.show(f"{check.state:8}{check.name:15}{check.detail}")

    unmet = [check.name for check in checks if check.needed and check.state != "ok"]
    output.show(
        f"not ready: {', '.join(unmet)}" if unmet else "ready: `stin-pipe demo` shows the whole pipeline"
    )
    if unmet == ["flow"]:
        output.show("without flow, `stin-pipe extract --streams rgb` and the spatial stream still work")
    code = EXIT_FAILED if unmet else 0
    output.result({"checks": [asdict(check) for check in checks], "ready": not unmet, "exit_code": code})
    if code:
        raise click.exceptions.Exit(code)


def _check(name: str, test: Callable[[], str], needed: bool) -> Check:
    try:
        return Check(name=name, state="ok", detail=test(), needed=needed)
    except (ImportError, _Missing) as error:
        return Check(name=name, state="missing", detail=str(error), needed=needed)
    except Exception as error:  # noqa: BLE001 - a broken library may fail in any way; the screen names it
        return Check(name=name, state="failed", detail=f"{type(error).__name__}: {error}", needed=needed)


def _version(module: str) -> str:
    return str(import_module(module).__version__)


def _ffmpeg() -> str:
    from stin_pipe.pipeline.decoding.ffmpeg import USUAL_DECODERS, find_ffmpeg, missing_decoders

    program, missing = find_ffmpeg(), missing_decoders()
    codecs = f"lacks {', '.join(missing)}" if missing else f"decodes {', '.join(USUAL_DECODERS)}"
    return f"{program.version} ({program.source}: {program.path}), {codecs}"


def _gpu() -> str:
    import torch

    driver = _driver()
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{device.name} ({size(device.total_memory)})" for device in devices)
        return f"{names}, driver {driver or 'unknown'}, torch's CUDA {torch.version.cuda}"

    # Three causes look the same to torch and need three remedies.
    if driver is None:
        raise _Missing("no NVIDIA driver; flow and training run on the CPU")
    if torch.version.cuda is None:
        raise _Missing(
            f"driver {driver} is installed, but torch is built without CUDA; install one with CUDA"
        )
    raise _Missing(f"driver {driver} and torch's CUDA {torch.version.cuda} find no device that they can use")


def _driver() -> str | None:
    """Return the version of the NVIDIA driver, None if there is none."""
    try:  # nvidia-smi may be missing in containers, this file is not
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"\b(\d{3,}\.\d+(\.\d+)?)\b", text)
    return match[1] if match else "of unknown version"


def _flow() -> str:
    import numpy as np

    from stin_pipe.pipeline.flow import resolve_backend, tvl1

    backend = resolve_backend("auto")
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (1, 32, 32), dtype=np.uint8)
    still = tvl1(frame, frame, backend=backend)  # compiles the kernels, which shows broken compilers too
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
    """Try what a run needs from its file system: write, sync, rename, link."""
    from stin_pipe.stin.shards.publish import NO_HARD_LINKS, publish_bytes

    with tempfile.TemporaryDirectory(dir=folder, prefix=".stin-pipe-doctor-") as name:
        path = Path(name) / "file"
        publish_bytes(path, b"x")
        publish_bytes(path, b"y")
        try:
            os.link(path, path.with_name("link"))
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            return f"{folder.absolute()} can be written; no hard links, so locks are files created once"
    return f"{folder.absolute()} can be written, renames and links are atomic"


def _locks(folder: Path) -> str:
    """Try flock where runs will be; runs do without it, other programs may not."""
    import fcntl

    with tempfile.NamedTemporaryFile(dir=folder, prefix=".stin-pipe-doctor-") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _Missing(f"flock is refused ({error.strerror}); runs do without it") from error
    return "flock works"


def _shared_memory(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if free < WANTED_SHARED_BYTES:
        raise _Missing(
            f"only {size(free)} free in {folder}: Ray and loader workers need {size(WANTED_SHARED_BYTES)} "
            "(containers: --shm-size 4g)"
        )
    return f"{size(free)} free in {folder}"


def _ray_access() -> str:
    from stin_pipe.stin.processes.ray_session import local_access, ray_installed

    if not ray_installed():
        raise _Missing("no ray: extract works in processes of its own (--runner local)")
    try:
        return local_access()
    except LookupError as error:
        raise _Missing(str(error)) from error


def _extra(name: str) -> str:
    """Return the versions of an extra's packages."""
    versions, missing = [], []
    for package, purpose in EXTRAS[name]:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(f"{package} ({purpose})")
    if missing:
        raise _Missing(f'no {", ".join(missing)}: pip install "stin-pipe[{name}]"')
    return ", ".join(versions)
