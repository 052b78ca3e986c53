"""Training from shards to a model file: it learns, resumes exactly, and scores alike from shards and from
memory."""

import json
import os
import shutil
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from stin_pipe.stin.network.model_file import load_model
from stin_pipe.stin.scoring.fusion import accuracy, fuse
from stin_pipe.stin.scoring.score_split import TestProtocol, score_clip, score_split
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import Interrupted, Runtime, TrainNotice, TrainProgress, train_stream
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe

QUIET = Runtime(tensorboard=False)


def config(stream, **changes):
    base = {"backbone": "resnet18-w8", "batch_size": 4, "epochs": 3, "flip": False, "val_share": 0.25}
    return override(resolve_recipe("small", stream), **{**base, "aux_weight": 0.5, **changes})


def train(run, out_dir, settings, *, runtime=QUIET, **more):
    manifest = more.pop("manifest", None) or Manifest.load(run / "extract" / "manifest.json")
    return train_stream(
        settings,
        manifest=manifest,
        extract_dir=run / "extract",
        out_dir=out_dir,
        split="1",
        runtime=runtime,
        **more,
    )


def weights(out_dir):
    return load_model(out_dir / "model.safetensors").network.state_dict()


def assert_same_training(first, second):
    """Weights and metrics of two training folders are equal bit for bit."""
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    ours, theirs = weights(first), weights(second)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory):
    """Both streams after a short undisturbed training, with its events."""
    folder = tmp_path_factory.mktemp("trained")
    events = {}
    for stream in ("spatial", "temporal"):
        seen = []
        result = train(tiny_run, folder / stream, config(stream, epochs=12), on_progress=seen.append)
        events[stream] = (result, seen)
    return folder, events


def test_the_flow_stream_learns_the_motion(trained, tiny_run):
    folder, _ = trained
    manifest = Manifest.load(tiny_run / "extract" / "manifest.json")
    scores = score_split(
        load_model(folder / "temporal" / "model.safetensors"),
        manifest=manifest,
        extract_dir=tiny_run / "extract",
        split="1",
        protocol=TestProtocol(num_segments=3, num_crops=5),
    )
    assert accuracy(scores.scores, scores.labels).top1 >= 5 / 6


def test_the_result_and_the_folder_say_what_happened(trained):
    folder, events = trained
    result, seen = events["spatial"]
    steps = [event for event in seen if isinstance(event, TrainProgress)]
    assert (result.stream, result.recipe, result.split, result.epochs) == ("spatial", "small", "1", 12)
    assert result.steps == len(steps) == 12 * 2  # nine videos train, three are held out, batches of four
    assert (result.num_train, result.num_held_out) == (9, 3)
    assert result.best_val_top1 is not None and 0 <= result.last_val_top1 <= result.best_val_top1 <= 1
    assert [event.step for event in steps] == list(range(1, 25))
    assert (steps[-1].epoch, steps[-1].epochs, steps[-1].seconds_left) == (12, 12, 0)
    out = folder / "spatial"
    assert json.loads((out / "result.json").read_text())["steps"] == result.steps
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 25))
    assert [line["step"] for line in lines if line["kind"] == "val"] == [10, 20, 24]
    assert lines[0]["loss"] == pytest.approx(lines[0]["main_loss"] + 0.5 * lines[0]["aux_loss"])
    assert load_model(out / "best.safetensors").info.training["step"] in (10, 20, 24)


def test_a_finished_training_is_reported_not_repeated(trained, tiny_run):
    folder, events = trained
    before = (folder / "spatial" / "model.safetensors").stat().st_mtime_ns
    again = train(tiny_run, folder / "spatial", config("spatial", epochs=12))
    assert again.was_complete
    assert replace(again, was_complete=False) == events["spatial"][0]
    assert (folder / "spatial" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("stream", "changes", "stop_at"),
    [
        ("spatial", {}, (1, 4)),
        ("temporal", {"kind": "sgd", "ema_decay": 0.9, "accumulate": 2, "dropout": 0.5}, (3,)),
    ],
)
def test_an_interrupted_training_resumes_bit_for_bit(tiny_run, tmp_path, stream, changes, stop_at):
    settings = config(stream, val_every_epochs=1, **changes)
    train(tiny_run, tmp_path / "whole", settings)

    for step in stop_at:

        def interrupt(event, step=step):
            if isinstance(event, TrainProgress) and event.step == step:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted, match=f"interrupted by SIGTERM after step {step}") as caught:
            train(tiny_run, tmp_path / "parts", settings, on_progress=interrupt)
        assert caught.value.signum == signal.SIGTERM
        assert not (tmp_path / "parts" / "result.json").exists()
        torch.rand(5)  # whatever else draws from torch's generator in between must not matter
    train(tiny_run, tmp_path / "parts", settings)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


def test_loader_workers_do_not_change_the_result(tiny_run, tmp_path):
    settings = config("spatial", epochs=2, jitter=0.3, flip=True)
    train(tiny_run, tmp_path / "none", settings)
    train(tiny_run, tmp_path / "two", settings, runtime=replace(QUIET, loader_workers=2))
    assert_same_training(tmp_path / "none", tmp_path / "two")


def test_the_signals_are_given_back(tiny_run, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(tiny_run, tmp_path / "out", config("temporal", epochs=1))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_training_runs_outside_the_main_thread(tiny_run, tmp_path):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(train(tiny_run, tmp_path / "out", config("temporal", epochs=1)))
    )
    thread.start()
    thread.join()
    assert found and found[0].steps == 2


def test_tensorboard_events_hold_the_curves(tiny_run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_run, tmp_path, config("spatial", epochs=2), runtime=Runtime())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert [item.value for item in events.Scalars("train/loss")] == pytest.approx(losses)
    assert {"train/lr", "train/aux_loss", "val/top1", "speed/samples_per_s"} <= set(events.Tags()["scalars"])


def test_resumed_events_show_every_step_once(tiny_run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings, runtime = config("temporal"), Runtime(checkpoint_every_steps=1)

    def interrupt(event):
        if isinstance(event, TrainProgress) and event.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(tiny_run, tmp_path, settings, runtime=runtime, on_progress=interrupt)
    # As if killed after step 4 was logged and before its checkpoint was whole: steps 4 on are done again.
    (tmp_path / "checkpoints" / "step-00000004.json").unlink()
    train(tiny_run, tmp_path, settings, runtime=runtime)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [item.step for item in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_init_from_a_finished_model_starts_from_its_weights(trained, tiny_run, tmp_path):
    folder, _ = trained
    path = folder / "temporal" / "model.safetensors"
    settings = config("temporal", epochs=1, lr=1e-9, weight_decay=0.0, init=str(path), partial_bn=True)
    train(tiny_run, tmp_path, settings)
    old, new = weights(folder / "temporal"), weights(tmp_path)
    for name in ("backbone.layer4.1.conv2.weight", "head.weight", "attention.key.weight"):
        torch.testing.assert_close(new[name], old[name], rtol=1e-4, atol=1e-6)
    # All norms of the backbone but the first stay as they were, statistics included.
    assert torch.equal(new["backbone.layer1.0.bn1.running_mean"], old["backbone.layer1.0.bn1.running_mean"])
    assert not torch.equal(new["backbone.bn1.running_mean"], old["backbone.bn1.running_mean"])


def test_weights_to_start_from_are_known_by_their_content(trained, tiny_run, tmp_path, monkeypatch):
    folder, _ = trained
    given, out = tmp_path / "given.safetensors", tmp_path / "out"
    shutil.copy(folder / "temporal" / "model.safetensors", given)
    monkeypatch.chdir(tmp_path)

    def start(path):
        return train(tiny_run, out, config("temporal", epochs=1, init=str(path)))

    start("given.safetensors")
    assert start(given).was_complete
    assert start(shutil.copy(given, tmp_path / "copy.safetensors")).was_complete
    given.rename(tmp_path / "kept")
    assert start(given).was_complete  # gone: its path is all that is known
    shutil.copy(folder / "temporal" / "best.safetensors", given)
    given.write_bytes(given.read_bytes() + b" ")
    with pytest.raises(StinPipeError, match=r"another configuration \(--init, sha256: '\w+' -> '\w+'\)"):
        start(given)

    stored = json.loads((out / "config.json").read_text())
    assert stored.pop("init_sha256")  # as earlier versions wrote it
    (out / "config.json").write_text(json.dumps(stored))
    assert start(given).was_complete
    with pytest.raises(StinPipeError, match=r"another configuration \(--init: '.*given.*' -> '.*kept'\)"):
        start(tmp_path / "kept")


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_a_clip_in_memory_scores_as_from_its_shard(trained, tiny_run, stream):
    folder, _ = trained
    manifest = Manifest.load(tiny_run / "extract" / "manifest.json")
    model = load_model(folder / stream / "model.safetensors")
    protocol = TestProtocol(num_segments=4, num_crops=10)
    scores = score_split(
        model, manifest=manifest, extract_dir=tiny_run / "extract", split="1", protocol=protocol
    )
    reader = ShardReader(tiny_run / "extract", manifest)
    for row, video_id in enumerate(scores.ids):
        video = manifest.videos[video_id]
        clip = score_clip(
            model,
            rgb=reader.read_rgb(video_id, range(video.num_frames)),
            flow=reader.read_flow(video_id, range(video.num_frames - 1)),
            coding=reader.flow_coding(video_id),
            protocol=protocol,
        )
        assert np.array_equal(clip.logits, scores.scores[row])


def test_scoring_resumes_and_returns_at_once_when_done(trained, tiny_run, tmp_path):
    folder, _ = trained
    manifest = Manifest.load(tiny_run / "extract" / "manifest.json")
    model = load_model(folder / "temporal" / "model.safetensors")
    arguments = {
        "manifest": manifest,
        "extract_dir": tiny_run / "extract",
        "split": "1",
        "protocol": TestProtocol(num_segments=2, num_crops=1),
    }
    undisturbed = score_split(model, **arguments)

    class Killed(Exception):
        pass

    def kill_after_three(done, total):
        if done == 3:
            raise Killed

    path = tmp_path / "temporal.npz"
    with pytest.raises(Killed):
        score_split(model, out_path=path, on_progress=kill_after_three, **arguments)
    assert not path.exists()
    calls = []
    resumed = score_split(model, out_path=path, on_progress=lambda *call: calls.append(call), **arguments)
    assert calls[0] == (3, 6)  # nothing that was scored is scored again
    assert resumed.ids == undisturbed.ids and np.array_equal(resumed.scores, undisturbed.scores)
    assert [item.name for item in tmp_path.iterdir()] == ["temporal.npz"]
    calls.clear()
    score_split(model, out_path=path, on_progress=lambda *call: calls.append(call), **arguments)
    assert calls == [(6, 6)]
    # Another protocol is another scoring.
    other = {**arguments, "protocol": TestProtocol(num_segments=3, num_crops=1)}
    assert not np.array_equal(score_split(model, out_path=path, **other).scores, undisturbed.scores)
    assert Scores.load(path).protocol["num_segments"] == 3


def test_the_streams_of_a_run_fuse(trained, tiny_run):
    folder, _ = trained
    manifest = Manifest.load(tiny_run / "extract" / "manifest.json")
    scored = [
        score_split(
            load_model(folder / stream / "model.safetensors"),
            manifest=manifest,
            extract_dir=tiny_run / "extract",
            split="1",
            protocol=TestProtocol(num_segments=3, num_crops=1),
        )
        for stream in ("spatial", "temporal")
    ]
    fused = fuse(*scored)
    assert fused.ids == tuple(video.id for video in manifest.subset("1", "test"))
    np.testing.assert_allclose(fused.scores, (scored[0].scores + 1.5 * scored[1].scores) / 2.5, rtol=1e-5)


def test_models_of_other_classes_and_too_few_segments_are_refused(trained, tiny_run):
    folder, _ = trained
    manifest = Manifest.load(tiny_run / "extract" / "manifest.json")
    model = load_model(folder / "spatial" / "model.safetensors")
    with pytest.raises(StinPipeError, match="the model knows 3 classes"):
        score_split(
            model,
            manifest=replace(manifest, classes=("x", "y", "z")),
            extract_dir=tiny_run / "extract",
            split="1",
        )
    with pytest.raises(ValueError, match=r"--segments \(num_segments\) must be >= 2 for a model"):
        score_clip(model, rgb=np.zeros((9, 32, 40, 3), np.uint8), protocol=TestProtocol(num_segments=1))
    with pytest.raises(ValueError, match="a spatial model needs rgb"):
        score_clip(model, flow=np.zeros((9, 2, 32, 40), np.uint8))


def test_classes_that_training_never_saw_are_told(tiny_run, tmp_path):
    manifest = Manifest.load(tiny_run / "extract" / "manifest.json")
    videos = {
        video_id: replace(video, splits={"1": "test"}) if video.label == 2 else video
        for video_id, video in manifest.videos.items()
    }
    seen = []
    result = train(
        tiny_run,
        tmp_path,
        config("temporal", epochs=1),
        manifest=replace(manifest, videos=videos),
        on_progress=seen.append,
    )
    told = [event.message for event in seen if isinstance(event, TrainNotice)]
    assert told == list(result.notices)
    assert any("1 classes of the test list have no training video" in message for message in told)
    assert any(message.endswith("stands") for message in told)
