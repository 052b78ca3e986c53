"""One video as a run of its own: a shard in a folder, and a manifest of it alone."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.plan import ExtractParams
    from stin.shards.schema import Manifest


class UnusableVideo(Exception):
    """A video that gives no frames or no flow."""


def one_video_run(
    folder: Path, path: Path, classes: tuple[str, ...], params: "ExtractParams", timeout_s: float
) -> "Manifest":
    """Extract the video under `folder` and return a manifest of it alone.

    Raises:
        UnusableVideo: it gives no frames or no flow; the message says why.
    """
    from pipeline.extract import extract_video
    from pipeline.listed import ListedVideo
    from stin.shards.schema import FlowCoding, Manifest, ManifestVideo
    from stin.shards.writer import ShardWriter

    coding = FlowCoding.from_bound(params.bound_px)
    listed = ListedVideo(id=path.name, path=path.name, label=0, class_name=classes[0], splits={"1": "test"})
    (folder / "shards").mkdir()
    with ShardWriter(
        folder / "shards" / "00000.h5", attributes={"flow_zero": coding.zero, "flow_scale": coding.scale}
    ) as writer:
        outcome = extract_video(
            listed, root=path.absolute().parent, params=params, writer=writer, timeout_s=timeout_s
        )
    if outcome.meta is None:
        raise UnusableVideo(f"{outcome.reason}: {outcome.message}")
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
    return Manifest(
        dataset="folder",
        classes=classes,
        split_names=("1",),
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
