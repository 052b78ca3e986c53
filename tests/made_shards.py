"""Shards of tiny made videos, for tests that train and score: no decoder, no flow engine."""

from pathlib import Path

import numpy as np

from stin_pipe.stin.shards.codec import encode_image, quantise_flow
from stin_pipe.stin.shards.schema import FlowCoding, Manifest, ManifestVideo
from stin_pipe.stin.shards.writer import ShardWriter

CLASSES = ("falls", "rises", "stands")
BOUND_PX = 4.0
VELOCITY = {"falls": 2.0, "rises": -2.0, "stands": 0.0}


def draw_video(class_name: str, *, num_frames: int, seed: int, height: int = 32, width: int = 40):
    """Return frames (T, H, W, 3) of a bar that moves up or down, and its flow (T - 1, H, W, 2)."""
    rng = np.random.default_rng(seed)
    start, velocity = rng.uniform(0, height), VELOCITY[class_name]
    background = rng.integers(40, 90, (height, width, 3))
    frames, flow = [], []
    rows = np.arange(height)
    for time in range(num_frames):
        distance = np.abs((rows - (start + velocity * time) + height / 2) % height - height / 2)
        bar = np.clip(5 - distance, 0, 1)[:, None, None]
        frames.append((bar * np.array([200, 180, 90]) + (1 - bar) * background).astype(np.uint8))
        # Estimated flow is never exactly constant; where it is, maxima are decided by rounding.
        moving = rng.normal(0, 0.2, (height, width, 2)).astype(np.float32)
        moving[distance < 5, :, 1] += velocity
        flow.append(moving)
    return np.stack(frames), np.stack(flow[:-1])


def make_run(
    folder: Path, *, per_class: int = 4, tests_per_class: int = 2, num_frames: int = 12, grouped: bool = False
) -> Manifest:
    """Write ``folder/extract`` with shards of lossless images and a manifest with one split."""
    extract = folder / "extract"
    (extract / "shards").mkdir(parents=True)
    coding = FlowCoding.from_bound(BOUND_PX)
    videos = {}
    for label, name in enumerate(CLASSES):
        attributes = {"flow_zero": coding.zero, "flow_scale": coding.scale}
        shard = f"{label:05d}"
        with ShardWriter(extract / "shards" / f"{shard}.h5", attributes=attributes) as writer:
            for number in range(per_class + tests_per_class):
                video_id = f"{name}/v{number:02d}.avi"
                frames, flow = draw_video(name, num_frames=num_frames + number, seed=100 * label + number)
                video = writer.begin_video(video_id)
                for frame in frames:
                    video.append_frame(encode_image(frame, codec="png"))
                for field in quantise_flow(flow, bound_px=BOUND_PX):
                    video.append_field(encode_image(field, codec="png"))
                height, width = frames.shape[1:3]
                group, meta = video.finish(
                    label=label,
                    class_name=name,
                    height=height,
                    width=width,
                    fps=12.0,
                    source_sha256="",
                    notes={},
                )
                videos[video_id] = ManifestVideo(
                    id=video_id,
                    label=label,
                    num_frames=len(frames),
                    height=height,
                    width=width,
                    fps=12.0,
                    shard=shard,
                    group=group,
                    splits={"1": "train" if number < per_class else "test"},
                    digest=meta.digest,
                    group_key=f"g{number // 2:02d}" if grouped else None,
                )
    manifest = Manifest(
        dataset="folder",
        classes=CLASSES,
        split_names=("1",),
        split_from="lists",
        split_source="made",
        videos=dict(sorted(videos.items())),
        failed=(),
        num_skipped=0,
        num_absent=0,
        num_pending=0,
        bound_px=BOUND_PX,
        flow_backend="made",
        fingerprint="made",
    )
    manifest.save(extract / "manifest.json")
    return manifest
