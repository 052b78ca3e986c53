"""The frame pairs that `flow.py` measures on: pairs with ground truth, and fixed pairs of real clips.

A machine without ffmpeg or the real data takes both from one .npz file that `flow.py --prepare` wrote.
"""

import dataclasses
import importlib.util
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np

CLIP_SIZE = (256, 340)
PAIRS_A_CLIP = 5
MOST_FRAMES = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSet:
    """Pairs of one size: (N, H, W) uint8 frames, the true flow where it is known, a name for each pair."""

    name: str
    frames0: np.ndarray
    frames1: np.ndarray
    truth: np.ndarray | None
    labels: list[str]


def load_truth(data: Path) -> list[PairSet]:
    """RubberWhale and the FlyingChairs pairs, grey as OpenCV reads them."""

    def read(path: Path) -> np.ndarray:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise FileNotFoundError(f"no readable image {path}")
        return image

    whale, chairs = data / "flow/middlebury/RubberWhale", data / "flow/flyingchairs"
    stems = [path.name.removesuffix("-gt.flo") for path in sorted(chairs.glob("*-gt.flo"))]
    return [
        PairSet(
            name="RubberWhale",
            frames0=read(whale / "frame10.png")[None],
            frames1=read(whale / "frame11.png")[None],
            truth=_read_flo(whale / "flow10.flo")[None],
            labels=["RubberWhale"],
        ),
        PairSet(
            name="Chairs",
            frames0=np.stack([read(chairs / f"{stem}-img0.ppm") for stem in stems]),
            frames1=np.stack([read(chairs / f"{stem}-img1.ppm") for stem in stems]),
            truth=np.stack([_read_flo(chairs / f"{stem}-gt.flo") for stem in stems]),
            labels=stems,
        ),
    ]


def _read_flo(path: Path) -> np.ndarray:
    raw = path.read_bytes()
    width, height = np.frombuffer(raw, "<i4", 2, 4)
    return np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2)


def load_clips(data: Path) -> PairSet:
    """Five evenly spaced pairs of each clip, decoded by ffmpeg to grey at 340x256."""
    ffmpeg = find_ffmpeg()
    height, width = CLIP_SIZE
    firsts, seconds, labels = [], [], []
    for path in sorted([*data.glob("clips/*/**/*.*"), *data.glob("longer/*.mp4")]):
        if path.suffix not in (".avi", ".mkv", ".mp4"):
            continue
        command = [ffmpeg, "-v", "error", "-i", str(path), "-frames:v", str(MOST_FRAMES), "-an"]
        command += ["-vf", f"scale={width}:{height}", "-pix_fmt", "gray", "-f", "rawvideo", "-"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width)
        for k in range(PAIRS_A_CLIP):
            i = int((k + 0.5) / PAIRS_A_CLIP * (len(frames) - 1))
            firsts.append(frames[i])
            seconds.append(frames[i + 1])
            labels.append(f"{path.stem}:{i}")
    return PairSet(
        name="clips", frames0=np.stack(firsts), frames1=np.stack(seconds), truth=None, labels=labels
    )


def find_ffmpeg() -> str:
    """The ffmpeg of PATH, or the one inside imageio-ffmpeg."""
    if found := shutil.which("ffmpeg"):
        return found
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise FileNotFoundError("there is no ffmpeg: use --pairs with a file that --prepare wrote elsewhere")
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def save(sets: list[PairSet], path: Path) -> None:
    """Write pair sets to one .npz file."""
    arrays = {}
    for pairs in sets:
        arrays[f"{pairs.name}.frames0"], arrays[f"{pairs.name}.frames1"] = pairs.frames0, pairs.frames1
        arrays[f"{pairs.name}.labels"] = np.array(pairs.labels)
        if pairs.truth is not None:
            arrays[f"{pairs.name}.truth"] = pairs.truth
    np.savez_compressed(path, **arrays)


def load(path: Path) -> list[PairSet]:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        names = [key.removesuffix(".frames0") for key in arrays.files if key.endswith(".frames0")]
        return [
            PairSet(
                name=name,
                frames0=arrays[f"{name}.frames0"],
                frames1=arrays[f"{name}.frames1"],
                truth=arrays.get(f"{name}.truth"),
                labels=[str(label) for label in arrays[f"{name}.labels"]],
            )
            for name in names
        ]
