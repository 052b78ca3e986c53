"""The picture of an overlay: video, flow, what the network looks at, and the running prediction."""

from collections.abc import Mapping
from functools import cache

import cv2
import numpy as np

from stin_pipe.pipeline.flow.colour import flow_to_colour, full_length
from stin_pipe.stin.results.analysis import NUM_LIKELIEST
from stin_pipe.stin.scoring.windows import Running
from stin_pipe.stin.shards.codec import dequantise_flow
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import ManifestVideo
from stin_pipe.workflows.prediction.prediction import Prediction
from stin_pipe.workflows.report.pictures import blend_map, map_strength

WINDOW_S = 4.0
"""How far back a running prediction looks."""

WIDTH, HEIGHT = 960, 540
VIDEO_BOX = (0, 0, 640, 540)
FLOW_BOX, MAP_BOX = (654, 30, 292, 150), (654, 212, 292, 150)
BARS_LEFT, BARS_TOP, BARS_WIDTH, BAR_STEP = 654, 404, 292, 26
PAPER, INK, DIM, LINE = (20, 24, 27), (228, 232, 235), (155, 167, 176), (46, 53, 59)
ACCENT = {"spatial": (110, 176, 255), "temporal": (255, 170, 92), "fused": (111, 207, 151)}

Box = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""


class Scene:
    """Draws frame after frame; what stays the same between two windows is drawn once."""

    def __init__(
        self,
        *,
        reader: ShardReader,
        video: ManifestVideo,
        running: Mapping[str, Running],
        probabilities: np.ndarray,
        prediction: Prediction,
    ) -> None:
        self.reader, self.video, self.classes = reader, video, prediction.classes
        self.probabilities, self.prediction = probabilities, prediction
        self.accent = ACCENT[prediction.decisive]
        self.ends = next(iter(running.values())).ends
        self.looked_at = next(
            ((name, running[name]) for name in ("temporal", "spatial") if name in running
             and running[name].maps is not None), None
        )  # fmt: skip

        # One scale of colour for the whole video, from a sample of it: reading all flow twice takes too long.
        sample = np.unique(np.linspace(0, video.num_frames - 2, 12).astype(int)).tolist()
        self.full_px = full_length(np.stack([self._flow(index) for index in sample]))

        self.ground = self._ground()
        self.window = -1
        self.bars = np.empty(0)

    def draw(self, frame: np.ndarray, index: int) -> np.ndarray:
        """Return the picture (540, 960, 3) for frame `index` of the video."""
        # Before the first window ends (frame 1, the first motion) there is nothing to say.
        window = int(np.searchsorted(self.ends, index, side="right")) - 1
        picture = self.ground.copy()
        _place(picture, frame, VIDEO_BOX, frame.shape)

        # T frames have T - 1 fields: the last frame keeps the flow that led to it.
        flow = flow_to_colour(self._flow(min(index, self.video.num_frames - 2)), full_px=self.full_px)
        _place(picture, flow, FLOW_BOX, frame.shape)
        if self.looked_at is not None:
            _place(picture, self._map(frame, max(window, 0)), MAP_BOX, frame.shape)

        if window >= 0:
            if window != self.window:
                self.window, self.bars = window, self._bars(window)
            picture[BARS_TOP:, BARS_LEFT - 4 :] = self.bars
        self._foot(picture, index)
        return picture

    def _flow(self, index: int) -> np.ndarray:
        coding = self.reader.flow_coding(self.video.id)
        field = dequantise_flow(self.reader.read_flow(self.video.id, [index])[0], coding)
        return field.transpose(1, 2, 0)

    def _map(self, frame: np.ndarray, window: int) -> np.ndarray:
        assert self.looked_at is not None
        stream, running = self.looked_at
        assert running.maps is not None
        # Outside of the crop: no difference, or even attention, which is 1.
        values = running.map_over_picture(
            window, height=self.video.height, width=self.video.width, outside=float(stream == "temporal")
        )
        strength = map_strength(values, stream=stream, peak=float(running.maps.max()))
        small = cv2.resize(frame, (self.video.width, self.video.height), interpolation=cv2.INTER_AREA)
        return blend_map(small, strength, ACCENT[stream])

    def _ground(self) -> np.ndarray:
        picture = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
        _write(picture, f"optical flow (full colour: {self.full_px:g} px per frame)", (654, 22), DIM, 13)
        if self.looked_at is not None:
            what = {"temporal": "attention (temporal stream)", "spatial": "difference (spatial stream)"}
            _write(picture, what[self.looked_at[0]], (654, 204), DIM, 13)
        decisive = self.prediction.decisive
        who = "both streams" if decisive == "fused" else f"{decisive} stream"
        _write(picture, f"{who}, last {WINDOW_S:g} s", (654, 394), DIM, 13)
        return picture

    def _bars(self, window: int) -> np.ndarray:
        """Draw the likeliest classes of one window."""
        picture = np.full((HEIGHT - BARS_TOP, WIDTH - BARS_LEFT + 4, 3), PAPER, np.uint8)
        shares = self.probabilities[window]
        for rank, label in enumerate(np.argsort(-shares, kind="stable")[:NUM_LIKELIEST]):
            top = rank * BAR_STEP
            cv2.rectangle(picture, (4, top + 19), (3 + BARS_WIDTH, top + 22), LINE, -1)
            right = 4 + round((BARS_WIDTH - 1) * float(shares[label]))
            cv2.rectangle(picture, (4, top + 19), (right, top + 22), self.accent, -1)
            weight = 650 if rank == 0 else 400
            _write(picture, self.classes[label], (4, top + 15), INK, 14, width=BARS_WIDTH - 56, weight=weight)
            text = f"{100 * shares[label]:.0f} %"
            _write(picture, text, (4 + BARS_WIDTH - _text_width(text, 14, weight), top + 15), INK, 14,
                   weight=weight)  # fmt: skip
        return picture

    def _foot(self, picture: np.ndarray, index: int) -> None:
        """Write the prediction for the whole video at the foot, and draw how far the video has played."""
        foot = picture[HEIGHT - 40 :, :640]
        foot[...] = (0.3 * foot + 0.7 * np.array(PAPER)).astype(np.uint8)
        ((name, probability),) = self.prediction.top(1)
        share = f"{100 * probability:.0f} %"
        _write(picture, f"whole video: {name}", (14, HEIGHT - 15), INK, 17, width=520, weight=600)
        _write(picture, share, (626 - _text_width(share, 17, 600), HEIGHT - 15), INK, 17, weight=600)
        played = round(640 * (index + 1) / self.video.num_frames)
        cv2.rectangle(picture, (0, HEIGHT - 4), (max(0, played - 1), HEIGHT - 1), self.accent, -1)


def _place(picture: np.ndarray, image: np.ndarray, box: Box, shape: tuple[int, ...]) -> None:
    """Fit an image into a box of the picture, in the shape of the video (stored ones may be squeezed)."""
    left, top, width, height = box
    scale = min(width / shape[1], height / shape[0])
    size = max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))
    shrinks = size[0] < image.shape[1]
    fitted = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    x, y = left + (width - size[0]) // 2, top + (height - size[1]) // 2
    picture[y : y + size[1], x : x + size[0]] = fitted


def _write(
    picture: np.ndarray,
    text: str,
    foot: tuple[int, int],
    colour: tuple[int, int, int],
    size: int,
    *,
    width: int | None = None,
    weight: int = 400,
) -> None:
    """Write one line that stands on `foot`; one wider than `width` ends in an ellipsis."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    if width is not None and _text_width(text, size, weight) > width:
        while text and _text_width(text + "…", size, weight) > width:
            text = text[: min(len(text) - 1, 80)]
        text += "…"
    cv2.putText(picture, text, foot, colour, _font(), size, weight)


def _text_width(text: str, size: int, weight: int) -> int:
    _, _, width, _ = cv2.getTextSize((4 * WIDTH, HEIGHT), text, (0, HEIGHT // 2), _font(), size, weight)
    return int(width)


@cache
def _font() -> "cv2.FontFace":
    return cv2.FontFace("sans")  # unpacking it takes long


def require_fonts() -> None:
    """OpenCV before version 5 draws ASCII alone."""
    if not hasattr(cv2, "FontFace"):
        raise StinPipeError(
            f"--overlay writes names with the fonts of OpenCV 5, and this is {cv2.__version__}; "
            'install a newer one: pip install -U "opencv-contrib-python>=5"'
        )
