"""`predict --overlay`: a video with its flow, what the network looks at, and the running prediction.

Frames come from the video itself, as it is displayed; flow and scores from the shard that predict made of it.
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.workflows.prediction.overlay_scene import (
    HEIGHT,
    WIDTH,
    WINDOW_S,
    Scene,
    Verdict,
    require_fonts,
)

if TYPE_CHECKING:
    from stin_pipe.pipeline.planning.plan import ExtractParams
    from stin_pipe.stin.network.model_file import TrainedModel
    from stin_pipe.stin.scoring.fusion import FusionPoint
    from stin_pipe.stin.scoring.windows import Running
    from stin_pipe.stin.shards.reader import ShardReader
    from stin_pipe.stin.shards.schema import ManifestVideo

LOOKS_A_SECOND, MAX_LOOKS = 5.0, 240


def overlay_paths(out: Path, videos: Sequence[Path], *, several: bool) -> list[Path]:
    """Return where the overlay of each video goes: `out` itself, or files in the folder `out`.

    Raises:
        ValueError: a single one is not named .mp4, or an overlay would lie where its video does.
    """
    if not several and not out.is_dir():
        if out.suffix.lower() != ".mp4":
            raise ValueError(f"--overlay {out}: one video gives one .mp4 file, so name it so")
        paths = [out]
    else:
        if out.exists() and not out.is_dir():
            raise ValueError(f"--overlay {out}: several videos need a folder, and this is a file")
        paths, taken = [], set[str]()
        for video in videos:
            name, number = f"{video.stem}.overlay.mp4", 1
            while name.lower() in taken:
                number += 1
                name = f"{video.stem}.overlay-{number}.mp4"
            taken.add(name.lower())
            paths.append(out / name)
    sources = {video.resolve() for video in videos}
    for path in paths:
        if path.resolve() in sources:
            raise ValueError(f"--overlay {path}: this is one of the videos; give another name or folder")
    return paths


def write_overlay(
    out: Path,
    source: Path,
    *,
    models: "Mapping[str, TrainedModel]",
    reader: "ShardReader",
    video: "ManifestVideo",
    params: "ExtractParams",
    weights: tuple[float, float],
    when: "FusionPoint" = "before_softmax",
    aux: Mapping[str, float] | None = None,
    verdict: Verdict,
    on_progress: Callable[[float], None] = lambda _share: None,
) -> None:
    """Write the overlay of one video, whole or not at all.

    Args:
        out: the .mp4 file to write; an older one is replaced.
        source: the video file.
        models: the trained streams by name, one or both.
        reader: of the shard that holds the video.
        video: the video in it.
        params: how it was extracted, so that the frames are the same ones.
        weights: of the spatial and the temporal stream.
        when: where their mean is taken.
        aux: stream -> share of its auxiliary scores, where it is not the model's own.
        verdict: what is said of the whole video.
        on_progress: told the share that is done, as it goes.

    Raises:
        StinPipeError: ffmpeg cannot encode, or OpenCV has no fonts.
    """
    from stin_pipe.stin.clips.read_clips import ClipShape
    from stin_pipe.stin.scoring.windows import running_scores, window_ends

    require_fonts()
    fps = min(240.0, max(1.0, video.fps or 25.0))
    ends = window_ends(num_frames=video.num_frames, fps=fps, per_second=LOOKS_A_SECOND, at_most=MAX_LOOKS)
    done, total = 0, len(models) * len(ends) + video.num_frames

    def step(count: int = 1) -> None:
        nonlocal done
        done += count
        on_progress(done / total)

    running = {
        stream: running_scores(
            model,
            reader,
            ClipShape.of(video),
            ends=ends,
            window_frames=round(WINDOW_S * fps),
            aux_share=(aux or {}).get(stream),
            on_window=step,
        )
        for stream, model in models.items()
    }
    classes = next(iter(models.values())).info.classes
    scene = Scene(
        reader=reader,
        video=video,
        classes=classes,
        running=running,
        probabilities=running_probabilities(running, weights, when),
        verdict=verdict,
    )

    def pictures() -> Iterator[np.ndarray]:
        for index, frame in enumerate(_frames(source, video, params)):
            yield scene.draw(frame, index)
            step()

    _encode(out, pictures(), fps)


def running_probabilities(
    running: "Mapping[str, Running]", weights: tuple[float, float], when: "FusionPoint" = "before_softmax"
) -> np.ndarray:
    """Return the windows' probabilities (W, C): of the fused streams, or of the only one."""
    from stin_pipe.stin.scoring.fusion import weighted_mean
    from stin_pipe.stin.scoring.scores import softmax

    streams = [stream for stream in ("spatial", "temporal") if stream in running]
    logits = [running[stream].logits for stream in streams]
    if len(logits) == 1:
        return softmax(logits[0].astype(np.float64))
    fused = weighted_mean(logits, weights, when=when)
    return fused if when == "after_softmax" else softmax(fused)


def _frames(source: Path, video: "ManifestVideo", params: "ExtractParams") -> Iterator[np.ndarray]:
    """Yield the frames that were extracted, at the size of the video itself."""
    from stin_pipe.pipeline.decoding.frames import DecodeNotes, decode_frames

    decoded = decode_frames(source, DecodeNotes(), fps=params.fps)
    return islice(islice(decoded, 0, None, params.stride), video.num_frames)


def _encode(out: Path, pictures: Iterator[np.ndarray], fps: float) -> None:
    """Encode pictures of the scene's size as H.264 (MPEG-4 where ffmpeg lacks it) and publish the file."""
    import ffmpeg

    from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
    from stin_pipe.stin.shards.publish import publish_file, temporary_name

    program = find_ffmpeg().path
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(out)
    source = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="rgb24", s=f"{WIDTH}x{HEIGHT}", r=f"{fps:.6g}")
    options: dict[str, Any] = {"pix_fmt": "yuv420p", "f": "mp4", "movflags": "+faststart"}
    if _has_encoder(program, "libx264"):
        options |= {"c:v": "libx264", "preset": "veryfast", "crf": 20}
    else:
        options |= {"c:v": "mpeg4", "q:v": 3}
    command = ffmpeg.output(source, f"file:{temporary}", **options)
    command = command.global_args("-hide_banner", "-loglevel", "error", "-nostats", "-y")
    try:
        with tempfile.TemporaryFile() as messages:  # a pipe that nobody reads would stop ffmpeg
            process = subprocess.Popen(
                command.compile(cmd=program), stdin=subprocess.PIPE, stdout=messages, stderr=messages
            )
            assert process.stdin is not None
            try:
                for picture in pictures:
                    process.stdin.write(picture.tobytes())
                process.stdin.close()
            except BrokenPipeError:
                process.stdin = None  # ffmpeg ended early; its messages say why
            finally:
                if process.poll() is None and process.stdin is not None and not process.stdin.closed:
                    process.kill()
                code = process.wait()
            messages.seek(0)
            said = messages.read().decode(errors="replace").strip()
        if code != 0:
            raise StinPipeError(f"{out}: ffmpeg cannot encode the overlay: {said[:300]}")
        publish_file(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _has_encoder(program: str, name: str) -> bool:
    done = subprocess.run(
        [program, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=60, check=False
    )
    return f" {name} " in done.stdout
