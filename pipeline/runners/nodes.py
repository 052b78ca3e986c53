"""Look at every node of a cluster before work starts, so that nothing is found out an hour later."""

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
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes

PACKAGES = (
    *("stin-pipe", "numpy", "h5py", "numba"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)
"""Their versions may decide bytes, so all nodes must agree."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What each node is asked.

    Attributes:
        extract_dir: the run's `extract` folder.
        token: name of the file that the driver has just written there.
        video: a file of the data set that must be readable, None when the driver sees none itself.
        flow_backend: the back end of the run, which a node that will work must be able to run.
    """

    extract_dir: Path
    token: str
    video: Path | None
    flow_backend: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What a node answers; `problem` is empty when it can work.

    Attributes:
        free_bytes: room in the run folder, as this node sees it.
        lacking: decoders of the usual codecs that its ffmpeg was built without.
    """

    host: str
    problem: str
    versions: dict[str, str]
    free_bytes: int
    lacking: tuple[str, ...] = ()


def begin_preflight(extract_dir: Path, *, video: Path | None, flow_backend: str = "cpu") -> Preflight:
    """Write the token that proves that the nodes see the same run folder."""
    token = f".preflight-{secrets.token_hex(8)}"
    publish_bytes(extract_dir / token, token.encode())
    return Preflight(extract_dir=extract_dir, token=token, video=video, flow_backend=flow_backend)


def end_preflight(asked: Preflight) -> None:
    """Remove the token and the answers that nodes wrote beside it."""
    for path in asked.extract_dir.glob(f"{asked.token}*"):
        path.unlink(missing_ok=True)


def node_facts(asked: Preflight) -> NodeFacts:
    """Answer on a node: is the run folder the same one, are videos readable, which versions are here."""
    versions = {name: _version(name) for name in PACKAGES}
    free_bytes, lacking = 0, ()
    try:
        versions["ffmpeg"] = find_ffmpeg().version
        lacking = missing_decoders()
        if asked.flow_backend != MIXED:
            resolve_backend(asked.flow_backend)
        problem = _problem(asked)
        free_bytes = shutil.disk_usage(asked.extract_dir).free if not problem else 0
    except StinPipeError as error:
        problem = str(error)
    return NodeFacts(
        host=socket.gethostname(), problem=problem, versions=versions, free_bytes=free_bytes, lacking=lacking
    )


def check_nodes(facts: Sequence[NodeFacts], *, need_bytes: int, warn: Callable[[str], None]) -> None:
    """Refuse a cluster on which the run could not end right.

    Args:
        facts: one answer a node.
        need_bytes: disk that the shards will take, by estimate.
        warn: called with what a person should know but that need not stop the work.

    Raises:
        StinPipeError: names the node, what is wrong with it and what to do.
    """
    first = facts[0]
    for node in facts:
        if node.problem:
            raise StinPipeError(f"node {node.host}: {node.problem}")
        for name, version in node.versions.items():
            if version != first.versions[name]:
                raise StinPipeError(
                    f"node {node.host} has {name} {version}, node {first.host} has {first.versions[name]}; "
                    "install the same on all nodes, since mixed versions may make mixed data"
                )
        if node.lacking != first.lacking:
            some, others = (node, first) if node.lacking else (first, node)
            raise StinPipeError(
                f"the ffmpeg of node {some.host} cannot decode {', '.join(some.lacking)}, that of node "
                f"{others.host} {'lacks ' + ', '.join(others.lacking) if others.lacking else 'can'}; "
                "install the same build on all nodes"
            )
    if first.lacking:
        warn(f"ffmpeg cannot decode {', '.join(first.lacking)}; videos of these codecs will fail")
    free = min(node.free_bytes for node in facts)
    if free < need_bytes:
        warn(
            f"{free / 2**30:.1f} GiB of disk free, and about {need_bytes / 2**30:.1f} GiB are needed; "
            "should it run full, free some room and give the same command again"
        )


def choose_flow(found: Sequence[tuple[str, str]], *, allow_mixed: bool) -> str:
    """Return the back end for all nodes of a cluster, from what `auto` is on each.

    Args:
        found: (host, back end) of each node.
        allow_mixed: let every node use its own.

    Raises:
        StinPipeError: the nodes differ, and that was not allowed.
    """
    backends = sorted({backend for _, backend in found})
    if len(backends) == 1:
        return backends[0]
    if allow_mixed:
        return MIXED
    named = "; ".join(
        f"{backend}: {', '.join(sorted({host for host, own in found if own == backend})[:5])}"
        for backend in backends
    )
    raise StinPipeError(
        f"the nodes of the cluster differ in the flow back end that suits them ({named}), and flow of "
        "different ones differs in its last digits; give --flow cuda (the other nodes then stay idle), "
        "--flow cpu, or --allow-mixed-flow"
    )


def _problem(asked: Preflight) -> str:
    token = asked.extract_dir / asked.token
    try:
        if token.read_bytes() != asked.token.encode():
            return f"{asked.extract_dir} is another folder here; put the run on a path that all nodes share"
        answer = token.with_name(f"{asked.token}-{socket.gethostname()}-{os.getpid()}")
        publish_bytes(answer, b"written")
    except FileNotFoundError:
        return f"{asked.extract_dir} is not the run's folder here; put the run on a path that all nodes share"
    except OSError as error:
        return f"{asked.extract_dir} cannot be written here: {error.strerror}"
    try:
        if asked.video is not None:
            with asked.video.open("rb") as handle:
                handle.read(1)
    except OSError as error:
        return f"{asked.video} cannot be read here ({error.strerror}); put the videos on a shared path too"
    return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
