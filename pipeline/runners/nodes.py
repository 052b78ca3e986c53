"""Check every node of a cluster before work starts: an hour later the same faults cost an hour."""

import os
import secrets
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg, missing_decoders
from stin_pipe.pipeline.flow import resolve_backend
from stin_pipe.pipeline.planning.plan import MIXED
from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_bytes
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes

_TOKEN = FileKind(name="question to the nodes", max_bytes=4096)
PACKAGES = (
    *("stin-pipe", "numpy", "h5py", "numba"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)
"""Their versions can change the bytes of a shard, so all nodes must agree."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The questions to each node.

    Attributes:
        extract_dir: the run's `extract` folder.
        token: name of the file that the driver has just written there.
        video: a file of the data set that must be readable; None when the driver cannot see one itself.
        flow_backend: the back end of the run, which every working node must be able to use.
    """

    extract_dir: Path
    token: str
    video: Path | None
    flow_backend: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """A node's answers; `problem` is empty when it can work.

    Attributes:
        free_bytes: free disk in the run folder, as this node sees it.
        lacking: common codecs that its ffmpeg cannot decode.
    """

    host: str
    problem: str
    versions: dict[str, str]
    free_bytes: int
    lacking: tuple[str, ...] = ()


def begin_preflight(extract_dir: Path, *, video: Path | None, flow_backend: str = "cpu") -> Preflight:
    """Write the token by which a node proves that it sees the same run folder."""
    token = f".preflight-{secrets.token_hex(8)}"
    publish_bytes(extract_dir / token, token.encode())
    return Preflight(extract_dir=extract_dir, token=token, video=video, flow_backend=flow_backend)


def end_preflight(preflight: Preflight) -> None:
    """Remove the token and the files that nodes wrote beside it."""
    for path in preflight.extract_dir.glob(f"{preflight.token}*"):
        path.unlink(missing_ok=True)


def node_facts(preflight: Preflight) -> NodeFacts:
    """Answer on a node: is the run folder the same, can videos be read, which versions are installed."""
    versions = {name: _version(name) for name in PACKAGES}
    free_bytes, lacking = 0, ()
    try:
        versions["ffmpeg"] = find_ffmpeg().version
        lacking = missing_decoders()
        if preflight.flow_backend != MIXED:
            resolve_backend(preflight.flow_backend)
        problem = _problem(preflight)
        free_bytes = shutil.disk_usage(preflight.extract_dir).free if not problem else 0
    except StinPipeError as error:
        problem = str(error)
    return NodeFacts(
        host=socket.gethostname(), problem=problem, versions=versions, free_bytes=free_bytes, lacking=lacking
    )


def check_nodes(facts: Sequence[NodeFacts], *, need_bytes: int, warn: Callable[[str], None]) -> None:
    """Refuse a cluster on which the run would fail or mix data of different versions.

    Args:
        facts: the answers of all nodes.
        need_bytes: estimated disk of the shards.
        warn: called with what a person should know but need not stop the work for.

    Raises:
        StinPipeError: names the node, its fault and the remedy.
    """
    first = facts[0]
    for node in facts:
        if node.problem:
            raise StinPipeError(f"node {node.host}: {node.problem}")
        for name, version in node.versions.items():
            if version != first.versions[name]:
                raise StinPipeError(
                    f"node {node.host} has {name} {version}, node {first.host} has {first.versions[name]}; "
                    "install the same version on all nodes, or the shards may differ from each other"
                )

        if node.lacking != first.lacking:
            some, others = (node, first) if node.lacking else (first, node)
            raise StinPipeError(
                f"the ffmpeg of node {some.host} cannot decode {', '.join(some.lacking)}, that of node "
                f"{others.host} {'lacks ' + ', '.join(others.lacking) if others.lacking else 'can'}; "
                "install the same build on all nodes"
            )

    if first.lacking:
        warn(f"ffmpeg cannot decode {', '.join(first.lacking)}; videos in these codecs will fail")
    free = min(node.free_bytes for node in facts)
    if free < need_bytes:
        warn(
            f"{free / 2**30:.1f} GiB of disk are free and about {need_bytes / 2**30:.1f} GiB are needed; "
            "if the disk fills up, free some space and run the same command again"
        )


def choose_flow(own_backends: Sequence[tuple[str, str]], *, allow_mixed: bool) -> str:
    """Return the back end for all nodes of a cluster, from what `auto` means on each.

    Args:
        own_backends: (host, back end) of each node.
        allow_mixed: let every node use its own.

    Raises:
        StinPipeError: the nodes differ and `allow_mixed` is off.
    """
    backends = sorted({backend for _, backend in own_backends})
    if len(backends) == 1:
        return backends[0]
    if allow_mixed:
        return MIXED

    nodes = "; ".join(
        f"{backend}: {', '.join(sorted({host for host, own in own_backends if own == backend})[:5])}"
        for backend in backends
    )
    raise StinPipeError(
        f"the nodes of the cluster differ in their best flow back end ({nodes}), and the flow of different "
        "back ends differs in its last digits; give --flow cuda (nodes without a GPU then stay idle), "
        "--flow cpu, or --allow-mixed-flow"
    )


def _problem(preflight: Preflight) -> str:
    """Return what keeps this node from working on the run; empty if nothing does."""
    folder = preflight.extract_dir
    token = folder / preflight.token
    try:
        # The same path can be another disk on another node; only the content of a fresh file tells.
        if read_bytes(token, _TOKEN) != preflight.token.encode():
            return f"{folder} is another folder here; put the run on a path that all nodes share"
        answer = token.with_name(f"{preflight.token}-{socket.gethostname()}-{os.getpid()}")
        publish_bytes(answer, b"written")
    except FileNotFoundError:
        return f"{folder} is not the run's folder here; put the run on a path that all nodes share"
    except UnreadableFileError as error:
        return str(error)
    except OSError as error:
        return f"{folder} cannot be written here: {error.strerror}"

    try:
        if preflight.video is not None:
            with preflight.video.open("rb") as handle:
                handle.read(1)
    except OSError as error:
        return (
            f"{preflight.video} cannot be read here ({error.strerror}); put the videos on a shared path too"
        )
    return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
