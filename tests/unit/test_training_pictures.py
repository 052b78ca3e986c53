"""TensorBoard gets clips as the network sees them, its maps, and the curves; drawing changes nothing."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stin_pipe.stin.clips.dataset import TrainingClips, join_samples
from stin_pipe.stin.clips.read_clips import ClipShape
from stin_pipe.stin.device import Runtime
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import train_stream
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.learner import build_learner
from stin_pipe.stin.training.pictures import training_pictures
from stin_pipe.stin.training.ranks import Ranks
from stin_pipe.stin.training.recipes import resolve_recipe


def settings(stream, **changes):
    base = {"backbone": "resnet18-w8", "batch_size": 4, "epochs": 2, "flip": False, "val_share": 0.25}
    return override(resolve_recipe("small", stream), **{**base, "num_segments": 3, "crop_px": 24, **changes})


def prepared(run, config):
    manifest = Manifest.load(run / "extract" / "manifest.json")
    learner = build_learner(
        config,
        num_classes=3,
        bound_px=manifest.bound_px,
        runtime=Runtime(device="cpu"),
        device=torch.device("cpu"),
        notify=print,
        load_init=False,
        ranks=Ranks(),
    )
    clips = TrainingClips(
        [ClipShape.of(video) for video in manifest.videos.values()],
        ShardReader(run / "extract", manifest),
        stream=config.stream,
        augment=config.augment,
        num_segments=3,
        seed=0,
    )
    return learner, join_samples([clips[(0, index)] for index in (0, 8)])


def digest(learner):
    parts = [value.numpy().tobytes() for value in learner.network.state_dict().values()]
    return hashlib.sha256(b"".join(parts) + torch.get_rng_state().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("stream", "name", "columns"), [("spatial", "differences", 2), ("temporal", "attention", 3)]
)
def test_clips_and_maps_are_drawn_and_nothing_changes(tiny_run, stream, name, columns):
    learner, batch = prepared(tiny_run, settings(stream))
    before = digest(learner)
    pictures = training_pictures(learner, batch)
    assert digest(learner) == before
    assert set(pictures) == {"clips", name}
    assert pictures["clips"].shape == (2 * 24, 3 * 24, 3)
    assert pictures[name].shape == (2 * 24, columns * 24, 3)
    assert pictures[name].std() > 1
    if stream == "spatial":
        seen = batch.clips[1, 2].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(pictures["clips"][24:, 48:], seen)


def test_flow_is_drawn_by_direction(tiny_run):
    learner, batch = prepared(tiny_run, settings("temporal", injection=False))
    clips = batch.clips.clone()
    clips[:] = 128
    clips[0, 0, 0] = 200  # to the right: red
    clips[0, 1, 0] = 56  # to the left: cyan

    picture = training_pictures(learner, replace(batch, clips=clips))["clips"]
    assert picture[5, 5].tolist() == [255, 0, 0]
    assert picture[5, 29, 0] == 0 and picture[5, 29, 1:].min() >= 240
    assert picture[5, 53].tolist() == [255, 255, 255]  # no motion


def test_event_files_hold_curves_and_pictures(tiny_run, tmp_path):
    train_stream(
        settings("spatial", log_every_steps=1),
        manifest=Manifest.load(tiny_run / "extract" / "manifest.json"),
        extract_dir=tiny_run / "extract",
        out_dir=tmp_path,
        split="1",
        runtime=Runtime(device="cpu"),
    )
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert {"pictures/clips", "pictures/differences"} == set(tags["images"])
    wanted = {"train/loss", "train/lr", "train/grad_norm", "val/top1", "val/aux_top1"}
    assert wanted | {"speed/samples_per_s", "speed/loader_wait", "speed/memory_gib"} <= set(tags["scalars"])
    assert events.Scalars("speed/memory_gib")[-1].value > 0.05
    assert [event.step for event in events.Images("pictures/clips")] == [1, 2, 3, 4]
