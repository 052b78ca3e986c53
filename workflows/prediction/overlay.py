"""`predict --overlay`: a video with its flow, what the network looks at, and the running prediction.

Frames come from the video itself, as it is displayed; flow and scores from the shard that predict made of it.
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.stin.clips.read_clips import ClipShape
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.processes.lifeline import ending_with_this_process
from stin_pipe.stin.scoring.fusion import weighted_mean
from stin_pipe.stin.scoring.scores import softmax
from stin_pipe.stin.scoring.settings import STREAMS
from stin_pipe.stin.scoring.windows import Running, running_scores, window_ends
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_file, temporary_name
from stin_pipe.workflows.prediction.fusion_choice import FusionChoice
from stin_pipe.workflows.prediction.one_video import OneVideoRun
from stin_pipe.workflows.prediction.overlay_scene import HEIGHT, WIDTH, WINDOW_S, Scene, require_fonts
from stin_pipe.workflows.prediction.prediction import Prediction

WINDOWS_A_SECOND, MAX_WINDOWS = 5.0, 240
DEFAULT_FPS = 25.0
MIN_FPS, MAX_FPS = 1.0, 240.0
"""A file may state any rate; outside of this range players fail."""


def overlay_paths(out: Path, videos: Sequence[Path], *, several: bool) -> list[Path]:
    """Return where the overlay of each video goes: `out` itself, or files in the folder `out`.

    Raises:
        ValueError: a single one is not named .mp4, or an overlay would replace a video.
    """
    # One video and a path that is no folder: the path is the file's own name.
    if not several and not out.is_dir():
        if out.suffix.lower() != ".mp4":
            raise ValueError(f"--overlay {out}: the overlay of one video is an .mp4 file; name it OUT.mp4")
        paths = [out]
    else:
        # Names may differ in case alone, or come from different folders; some file systems ignore case.
        if out.exists() and not out.is_dir():
            raise ValueError(f"--overlay {out}: several videos need a folder, but this is a file")
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
    frames: Iterable[np.ndarray],
    *,
    run: OneVideoRun,
    models: Mapping[str, TrainedModel],
    fusion: FusionChoice,
    prediction: Prediction,
    on_progress: Callable[[float], None] = lambda _share: None,
) -> None:
    """Write the overlay of one video, whole or not at all.

    Args:
        out: the .mp4 file to write; an older one is replaced.
        frames: the extracted frames at the size of the video itself, (H, W, 3) uint8 RGB.
        run: holds the video's flow and stored frames.
        models: one or both trained streams by name.
        fusion: how they are fused.
        prediction: of the whole video, for the line at the foot.
        on_progress: called with the share that is done.

    Raises:
        StinPipeError: ffmpeg cannot encode, or OpenCV has no fonts.
    """
    require_fonts()
    video = run.video
    fps = min(MAX_FPS, max(MIN_FPS, video.fps or DEFAULT_FPS))
    ends = window_ends(num_frames=video.num_frames, fps=fps, per_second=WINDOWS_A_SECOND, at_most=MAX_WINDOWS)
    steps, total = 0, len(models) * len(ends) + video.num_frames

    def step(count: int = 1) -> None:
        nonlocal steps
        steps += count
        on_progress(steps / total)

    scene = _scene(run, models, fusion, prediction, ends, fps, on_window=step)

    def pictures() -> Iterator[np.ndarray]:
        for index, frame in enumerate(islice(frames, video.num_frames)):
            yield scene.draw(frame, index)
            step()

    _encode(out, pictures(), fps)


def _scene(
    run: OneVideoRun,
    models: Mapping[str, TrainedModel],
    fusion: FusionChoice,
    prediction: Prediction,
    ends: np.ndarray,
    fps: float,
    *,
    on_window: Callable[[int], None],
) -> Scene:
    """Score the windows that end at these frames, and return what draws them."""
    reader = run.reader()
    running = {
        stream: running_scores(
            model,
            reader,
            ClipShape.of(run.video),
            ends=ends,
            window_frames=round(WINDOW_S * fps),
            aux_share=fusion.aux.get(stream),
            on_window=on_window,
        )
        for stream, model in models.items()
    }
    return Scene(
        reader=reader,
        video=run.video,
        running=running,
        probabilities=running_probabilities(running, fusion),
        prediction=prediction,
    )


def running_probabilities(running: Mapping[str, Running], fusion: FusionChoice) -> np.ndarray:
    """Return the windows' probabilities (W, C): of the fused streams, or of the only one."""
    if len(running) == 1:
        return softmax(next(iter(running.values())).logits.astype(np.float64))
    parts = [running[stream].logits for stream in STREAMS]
    mean = weighted_mean(parts, fusion.weights, when=fusion.when)
    return mean if fusion.when == "after_softmax" else softmax(mean)


def _encode(out: Path, pictures: Iterator[np.ndarray], fps: float) -> None:
    """Encode pictures of the scene's size as H.264 (MPEG-4 where ffmpeg lacks it) and publish the file."""
    program = find_ffmpeg().path
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(out)
    source = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="rgb24", s=f"{WIDTH}x{HEIGHT}", r=f"{fps:.6g}")

    # What browsers and phones play, with the index in front, so that it plays while it loads.
    options: dict[str, Any] = {"pix_fmt": "yuv420p", "f": "mp4", "movflags": "+faststart"}
    if _has_encoder(program, "libx264"):
        options |= {"c:v": "libx264", "preset": "veryfast", "crf": 20}
    else:
        options |= {"c:v": "mpeg4", "q:v": 3}
    command = ffmpeg.output(source, f"file:{temporary}", **options)
    command = command.global_args("-hide_banner", "-loglevel", "error", "-nostats", "-y")

    try:
        code, messages = _pipe_pictures(command.compile(cmd=program), pictures)
        if code != 0:
            raise StinPipeError(f"{out}: ffmpeg cannot encode the overlay: {messages[:300]}")
        publish_file(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _pipe_pictures(command: list[str], pictures: Iterator[np.ndarray]) -> tuple[int, str]:
    """Run ffmpeg on pictures; return its exit code and its messages."""
    with tempfile.TemporaryFile() as messages:  # a pipe that nobody reads would stop ffmpeg
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=messages,
            stderr=messages,
            preexec_fn=ending_with_this_process(),
        )
        assert process.stdin is not None
        try:
            for picture in pictures:
                process.stdin.write(picture.tobytes())
            process.stdin.close()
        except BrokenPipeError:
            process.stdin = None  # ffmpeg ended early; its messages say why
        finally:
            # An open pipe here means that drawing failed: ffmpeg would wait for more pictures for ever.
            if process.poll() is None and process.stdin is not None and not process.stdin.closed:
                process.kill()
            code = process.wait()
        messages.seek(0)
        return code, messages.read().decode(errors="replace").strip()


def _has_encoder(program: str, name: str) -> bool:
    done = subprocess.run(
        [program, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=60, check=False
    )
    return f" {name} " in done.stdout
