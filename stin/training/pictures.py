"""Pictures of a training for TensorBoard: the clips that the network sees, and where it looks.

Shapes: B samples, K segments, h x w the crop.
"""

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch.func import functional_call

from stin_pipe.stin.clips.dataset import Batch, network_input
from stin_pipe.stin.device import autocast, resolve_amp
from stin_pipe.stin.network.config import SpatialConfig
from stin_pipe.stin.network.streams import StreamOutput
from stin_pipe.stin.training.learner import Learner

MAX_SAMPLES = 4


@torch.inference_mode()
def training_pictures(learner: Learner, batch: Batch) -> Mapping[str, np.ndarray]:
    """Draw the first samples of a batch: ``clips``, and over them ``differences`` or ``attention``.

    Each picture is uint8 (H, W, 3) RGB, with a row for each sample and a column for each segment. Frames are
    shown as they were cut; of a flow stack the first field is shown, with its direction as hue and its length
    as saturation. A map goes from dark (least) to bright (most) within its sample. The network does not
    change.
    """
    num_shown = min(MAX_SAMPLES, len(batch.ids))
    clips = batch.clips[:num_shown]
    stream = learner.config.stream
    shown_BKHWC = (
        clips.permute(0, 1, 3, 4, 2).numpy()
        if isinstance(stream, SpatialConfig)
        else _flow_colours(clips.numpy(), batch.flow_zero[:num_shown].numpy())
    )
    pictures = {"clips": _grid(shown_BKHWC)}
    if stream.is_plain:
        return pictures

    part = Batch(
        clips=clips,
        labels=batch.labels[:num_shown],
        flow_zero=batch.flow_zero[:num_shown],
        flow_scale=batch.flow_scale[:num_shown],
        ids=batch.ids[:num_shown],
        num_repeated=0,
    )

    learner.network.eval()  # a step puts it back into training
    inputs = network_input(part, stream=stream, bound_px=learner.bound_px, device=learner.device)
    with autocast(resolve_amp(learner.runtime.amp, learner.device), learner.device):
        output: StreamOutput = functional_call(
            learner.network, dict(learner.final_weights()), (inputs,), {"return_maps": True}
        )

    for name, values in output.maps.items():
        maps_BMhw = values.float().cpu().numpy()
        # A difference is shown over the earlier of its two segments.
        pictures[name] = _grid(_heat(shown_BKHWC[:, : maps_BMhw.shape[1]], maps_BMhw))
    return pictures


def _flow_colours(clips_BKCHW: np.ndarray, zero_B: np.ndarray) -> np.ndarray:
    fields = clips_BKCHW[:, :, :2].astype(np.float32) - zero_B.reshape(-1, 1, 1, 1, 1)
    x, y = fields[:, :, 0], fields[:, :, 1]
    length = np.hypot(x, y)
    full = max(8.0, float(np.percentile(length, 99)))  # quanta; noise of a still picture stays pale
    colours = np.empty((*length.shape, 3), np.uint8)
    colours[..., 0] = (np.arctan2(y, x) / (2 * np.pi) % 1.0) * 179
    colours[..., 1] = np.minimum(length / full, 1) * 255
    colours[..., 2] = 255
    flat = colours.reshape(-1, clips_BKCHW.shape[-1], 3)
    return cv2.cvtColor(flat, cv2.COLOR_HSV2RGB).reshape(colours.shape)


def _heat(shown_BMHWC: np.ndarray, maps_BMhw: np.ndarray) -> np.ndarray:
    least, most = (edge(maps_BMhw, axis=(1, 2, 3), keepdims=True) for edge in (np.min, np.max))
    levels = np.rint(255 * (maps_BMhw - least) / np.maximum(most - least, 1e-12)).astype(np.uint8)
    out = np.empty_like(shown_BMHWC)
    size = (shown_BMHWC.shape[3], shown_BMHWC.shape[2])
    for sample, segment in np.ndindex(levels.shape[:2]):
        level = cv2.resize(levels[sample, segment], size, interpolation=cv2.INTER_LINEAR)
        heat = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        grey = shown_BMHWC[sample, segment].mean(2, keepdims=True)
        out[sample, segment] = np.rint(0.4 * grey + 0.6 * heat)
    return out


def _grid(pictures_BKHWC: np.ndarray) -> np.ndarray:
    num_rows, num_columns, height, width, _ = pictures_BKHWC.shape
    return pictures_BKHWC.transpose(0, 2, 1, 3, 4).reshape(num_rows * height, num_columns * width, 3).copy()
