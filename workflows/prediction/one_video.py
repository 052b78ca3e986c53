"""One video as a run of its own: a shard in a folder, and a manifest of it alone."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from stin_pipe.pipeline.listing.listing import ListedVideo
    from stin_pipe.pipeline.planning.plan import ExtractParams
    from stin_pipe.stin.shards.schema import Manifest


class UnusableVideo(Exception):
    """A video that gives no frames or no flow.

    Attributes:
        reason: short key, as in failures.jsonl.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


def one_video_run(
    folder: Path, path: Path, classes: tuple[str, ...], params: "ExtractParams", timeout_s: float
) -> tuple["Manifest", Mapping[str, Any]]:
    """Extract the video under `folder`; return a manifest of it alone, and what decoding had to note.

    Raises:
        UnusableVideo: it gives no frames or no flow; the message says why.
    """
    from stin_pipe.pipeline.shard.from_video import extract_video
    from stin_pipe.stin.shards.schema import FlowCoding, Manifest, ManifestVideo
    from stin_pipe.stin.shards.writer import ShardWriter

    coding = FlowCoding.from_bound(params.bound_px)
    listed = _listed(path, classes[0])
    (folder / "shards").mkdir()
    with ShardWriter(
        folder / "shards" / "00000.h5", attributes={"flow_zero": coding.zero, "flow_scale": coding.scale}
    ) as writer:
        outcome = extract_video(
            listed, root=path.absolute().parent, params=params, writer=writer, timeout_s=timeout_s
        )
    if outcome.meta is None:
        raise UnusableVideo(outcome.reason, outcome.message)
    meta = outcome.meta
    video = ManifestVideo(
        id=listed.id,
        label=0,
        num_frames=meta.num_frames,
        height=meta.height,
        width=meta.width,
        fps=meta.fps,
        shard="00000",
        group=outcome.group,
        splits={"1": "test"},
        digest=meta.digest,
    )
    manifest = Manifest(
        dataset="folder",
        classes=classes,
        split_names=("1",),
        split_from="lists",
        split_source="",
        videos={video.id: video},
        failed=(),
        num_skipped=0,
        num_absent=0,
        num_pending=0,
        bound_px=params.bound_px,
        flow_backend=params.flow_backend,
        fingerprint=params.fingerprint(),
    )
    return manifest, meta.notes


def single_frame(path: Path, params: "ExtractParams", timeout_s: float) -> np.ndarray:
    """Return the only frame of a video that is too short for flow, as a shard would give it: (1, H, W, 3).

    Raises:
        UnusableVideo: it gives none.
    """
    from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes
    from stin_pipe.pipeline.shard.from_video import prepared_frames
    from stin_pipe.stin.shards.codec import decode_rgb, encode_image

    deadline = time.monotonic() + timeout_s
    try:
        frames = prepared_frames(
            _listed(path, ""), path.absolute().parent, params, DecodeNotes(), deadline=deadline
        )
        return np.stack([decode_rgb(encode_image(frame.rgb, codec=params.codec)) for frame in frames][:1])
    except DecodeError as error:
        raise UnusableVideo(error.reason, str(error)) from error


def _listed(path: Path, class_name: str) -> "ListedVideo":
    from stin_pipe.pipeline.listing.listing import ListedVideo

    return ListedVideo(id=path.name, path=path.name, label=0, class_name=class_name, splits={"1": "test"})
