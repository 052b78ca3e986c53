"""Running scores: what a stream answers at chosen frames of a video, from the seconds up to each.

Shapes: W windows, K segments a window (as many as in the training), C classes, H x W the stored picture.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from stin_pipe.stin.clips.dataset import Batch, join_samples, network_input, one_sample
from stin_pipe.stin.clips.read_clips import ClipShape, ClipSource, clip_length, item_count, read_clips
from stin_pipe.stin.clips.sampling import evenly_spaced_starts
from stin_pipe.stin.clips.transforms import Crop, protocol_crops
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.network.streams import stream_scores

WINDOWS_A_PASS = 8


@dataclass(frozen=True, kw_only=True)
class Running:
    """The scores of one stream as a video goes on.

    Attributes:
        ends: int64 (W,), the last frame that each window sees.
        logits: float32 (W, C), before softmax.
        maps: float32 (W, h, w) over the centre crop, of each window's last segment: attention in multiples of
            even attention, or the mean absolute difference; None for a plain stream.
        crop: where the maps lie in the stored picture.
    """

    ends: np.ndarray
    logits: np.ndarray
    maps: np.ndarray | None
    crop: Crop

    def map_over_picture(self, window: int, *, height: int, width: int, outside: float) -> np.ndarray:
        """Return one map over the whole picture, float32 (height, width), with `outside` beside the crop."""
        assert self.maps is not None
        picture = np.full((height, width), outside, np.float32)
        rows = slice(self.crop.top, self.crop.top + self.crop.height)
        columns = slice(self.crop.left, self.crop.left + self.crop.width)
        picture[rows, columns] = cv2.resize(
            self.maps[window], (self.crop.width, self.crop.height), interpolation=cv2.INTER_LINEAR
        )
        return picture


def window_ends(*, num_frames: int, fps: float, per_second: float, at_most: int) -> np.ndarray:
    """Return the frames at which to look: int64, increasing, from frame 1 (the first motion) to the last.

    Raises:
        ValueError: if there are fewer than 2 frames.
    """
    if num_frames < 2:
        raise ValueError(f"num_frames must be >= 2 to see any motion, got {num_frames}")
    count = int(np.ceil(num_frames / max(fps, 1e-6) * per_second))
    count = max(1, min(count, at_most, num_frames - 1))
    return np.unique(np.rint(np.linspace(num_frames - 1, 1, count)).astype(np.int64))


@torch.inference_mode()
def running_scores(
    model: TrainedModel,
    source: ClipSource,
    video: ClipShape,
    *,
    ends: np.ndarray,
    window_frames: int,
    aux_share: float | None = None,
    on_window: Callable[[int], None] = lambda _count: None,
) -> Running:
    """Score the windows that end at these frames, in the centre crop.

    Args:
        model: a finished model; each window has as many segments as in its training (at least 2).
        source: gives frames and fields by id.
        video: which video, and its size.
        ends: int64 (W,), the last frame of each window, each >= 1.
        window_frames: longest window; the first ones are shorter.
        aux_share: share of the auxiliary scores; None is the model's own.
        on_window: called with the number of windows scored since the last call.

    Raises:
        ValueError: if there is no window, or one ends outside of the video.
    """
    if not len(ends) or ends.min() < 1 or ends.max() >= video.num_frames:
        raise ValueError(f"ends must be frames in 1..{video.num_frames - 1}, at least one, got {ends}")

    info = model.info
    crop = protocol_crops(height=video.height, width=video.width, num_crops=1, flip=False)[0]
    aux_at_test = info.stream.aux_at_test if aux_share is None else aux_share
    logits, maps = [], []

    for first in range(0, len(ends), WINDOWS_A_PASS):
        windows = [
            _read_window(model, source, video, int(end), window_frames, crop)
            for end in ends[first : first + WINDOWS_A_PASS]
        ]
        inputs = network_input(
            join_samples(windows), stream=info.stream, bound_px=info.bound_px, device=model.device
        )
        # Neighbours are compared: a window has as many segments as the training, so no wider step is due.
        output = model.network(inputs, return_maps=True)
        logits.append(stream_scores(output, aux_at_test=aux_at_test).float().cpu().numpy())
        if output.maps:
            name = "differences" if info.stream_name == "spatial" else "attention"
            values = output.maps[name][:, -1].float()
            if name == "attention":  # weights that sum to 1: in multiples of even ones
                values = values * values[0].numel()
            maps.append(values.cpu().numpy())
        on_window(len(windows))

    return Running(
        ends=ends,
        logits=np.concatenate(logits),
        maps=np.concatenate(maps) if maps else None,
        crop=crop,
    )


def _read_window(
    model: TrainedModel, source: ClipSource, video: ClipShape, end: int, window_frames: int, crop: Crop
) -> Batch:
    """Read the clips of one window; nothing after frame `end` is read."""
    stream = model.info.stream
    # Cut short, because a clip at the end of the whole video would reach past the window.
    seen = replace(video, num_frames=end + 1)
    first = max(0, end + 1 - max(2, window_frames))
    starts = first + evenly_spaced_starts(
        num_items=item_count(seen, stream) - first,
        clip_len=clip_length(stream),
        num_segments=max(2, model.info.num_segments),
    )
    cut = read_clips(source, seen, starts=starts, crops=(crop,), stream=stream, crop_px=model.info.crop_px)
    return one_sample(video, cut.clips[0], cut)
