"""What a training must withstand: kill -9, damaged checkpoints, damaged shards, a loss that is not finite."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import stin_pipe.stin.training.loop
import stin_pipe.stin.training.step
from stin_pipe.stin.network.model_file import load_model
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import Interrupted, Runtime, TrainNotice, TrainProgress, train_stream
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.metrics_log import MetricsLog
from stin_pipe.stin.training.optim import StreamLoss
from stin_pipe.stin.training.recipes import resolve_recipe

ROOT = Path(__file__).resolve().parents[2]
QUIET = Runtime(tensorboard=False, device="cpu", checkpoint_every_steps=1)

# What a killed process runs: the same training as `train` below, told by its arguments alone.
SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import Runtime, TrainProgress, train_stream
run, out = Path(sys.argv[1]), Path(sys.argv[2])
config = override(resolve_recipe("small", "spatial"), backbone="resnet18-w8", batch_size=4, epochs=10,
                  flip=False, val_share=0.25, val_every_epochs=2, ema_decay=0.9)
train_stream(config, manifest=Manifest.load(run / "extract" / "manifest.json"), extract_dir=run / "extract",
             out_dir=out, split="1", runtime=Runtime(device="cpu", checkpoint_every_steps=1),
             on_progress=lambda e: isinstance(e, TrainProgress) and print(e.step, flush=True))
"""


def config(**changes):
    base = {"backbone": "resnet18-w8", "batch_size": 4, "epochs": 3, "flip": False, "val_share": 0.25}
    return override(resolve_recipe("small", "spatial"), **{**base, **changes})


def train(run, out_dir, settings=None, **more):
    return train_stream(
        settings or config(),
        manifest=Manifest.load(run / "extract" / "manifest.json"),
        extract_dir=run / "extract",
        out_dir=out_dir,
        split="1",
        runtime=more.pop("runtime", QUIET),
        **more,
    )


def stop_after(step):
    def interrupt(event):
        if isinstance(event, TrainProgress) and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return interrupt


def assert_same_training(first, second):
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    ours, theirs = (load_model(out / "model.safetensors").network.state_dict() for out in (first, second))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def run_and_kill(run, out, *, after_s, generator):
    """Start the script and kill -9 it ``after_s`` seconds after its first step; return whether it had
    ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run), str(out)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()
        time.sleep(generator.random() * after_s)
    finally:
        ended = process.poll() is not None
        process.kill()
        process.communicate()
    return ended


@pytest.mark.parametrize("num_kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_training_killed_at_random_moments_ends_as_if_undisturbed(tiny_run, tmp_path, num_kills):
    generator = random.Random(num_kills)
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_run), str(tmp_path / "whole")], cwd=ROOT, check=True
    )
    killed = 0
    while killed < num_kills:
        out = tmp_path / f"killed{killed // 3}"  # up to three kills in one training
        ended = run_and_kill(tiny_run, out, after_s=0.5, generator=generator)
        killed += 1
        if ended or killed % 3 == 0 or killed == num_kills:
            subprocess.run([sys.executable, "-c", SCRIPT, str(tiny_run), str(out)], cwd=ROOT, check=True)
            assert_same_training(tmp_path / "whole", out)
            leftovers = [path for path in out.rglob("*") if path.name.startswith(".")]
            assert len(list((out / "checkpoints").glob("*.pt"))) == 2
            assert not [path for path in leftovers if path.parent.name == "checkpoints"]


def test_a_damaged_checkpoint_falls_back_aloud_and_ends_the_same(tiny_run, tmp_path):
    train(tiny_run, tmp_path / "whole")
    out = tmp_path / "damaged"
    with pytest.raises(Interrupted):
        train(tiny_run, out, on_progress=stop_after(4))
    newest = sorted((out / "checkpoints").glob("*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    seen = []
    train(tiny_run, out, on_progress=seen.append)
    told = [event.message for event in seen if isinstance(event, TrainNotice)]
    assert any(str(newest) in message and "falling back" in message for message in told)
    assert next(event.step for event in seen if isinstance(event, TrainProgress)) == 4
    assert_same_training(tmp_path / "whole", out)


def test_torn_and_lost_metrics_lines_are_cut_or_told(tiny_run, tmp_path):
    train(tiny_run, tmp_path / "whole")
    out = tmp_path / "torn"
    with pytest.raises(Interrupted):
        train(tiny_run, out, on_progress=stop_after(4))
    with (out / "metrics.jsonl").open("a") as log:
        log.write('{"kind": "train", "step": 5, "lo')
    train(tiny_run, out)
    assert_same_training(tmp_path / "whole", out)

    lost = tmp_path / "lost"
    with pytest.raises(Interrupted):
        train(tiny_run, lost, on_progress=stop_after(4))
    (lost / "metrics.jsonl").unlink()
    result = train(tiny_run, lost)
    assert any("lines of the log are lost" in notice for notice in result.notices)


def test_other_settings_are_refused_with_the_difference(tiny_run, tmp_path):
    with pytest.raises(Interrupted):
        train(tiny_run, tmp_path, on_progress=stop_after(1))
    with pytest.raises(StinPipeError, match=r"another configuration \(--lr: \S+ -> 0\.5\); .* or delete"):
        train(tiny_run, tmp_path, config(lr=0.5))
    with pytest.raises(StinPipeError, match=r"\(--epochs: 3 -> 4\)"):
        train(tiny_run, tmp_path, config(epochs=4))
    told = r"\(--val-share: 0\.25 -> 0\.5\); .*\(the earlier ones are in \S+config\.json\)"
    with pytest.raises(StinPipeError, match=told):
        train(tiny_run, tmp_path, config(val_share=0.5))
    with pytest.raises(StinPipeError, match=r"\(config\.optim\.momentum: \S+ -> 0\.25\)"):
        train(tiny_run, tmp_path, config(momentum=0.25))
    train(tiny_run, tmp_path)  # the refused attempt has spoilt nothing


def train_without(run, out_dir, *ids, settings=None):
    """Train on the run's videos but these, as if the others had been added since."""
    manifest = Manifest.load(run / "extract" / "manifest.json")
    fewer = {key: video for key, video in manifest.videos.items() if key not in ids}
    return train_stream(
        settings or config(),
        manifest=Manifest(**{**vars(manifest), "videos": fewer}),
        extract_dir=run / "extract",
        out_dir=out_dir,
        split="1",
        runtime=QUIET,
    )


def test_an_unfinished_training_refuses_another_list_in_counts(tiny_run, tmp_path):
    with pytest.raises(Interrupted):
        train(tiny_run, tmp_path, on_progress=stop_after(1))
    count = json.loads((tmp_path / "config.json").read_text())["num_train"]
    told = rf"unfinished training on another list of videos \({count} videos then, {count - 1} now\)"
    with pytest.raises(StinPipeError, match=told):
        train_without(tiny_run, tmp_path, "falls/v01.avi")
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored.pop("num_train")  # as earlier versions wrote it
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(StinPipeError, match=rf"\({count - 1} videos now; some were added, lost or"):
        train_without(tiny_run, tmp_path, "falls/v01.avi")
    train(tiny_run, tmp_path)


def test_a_finished_training_stays_when_the_list_has_changed(tiny_run, tmp_path):
    settings = config(epochs=1)
    before = train_without(tiny_run, tmp_path, "falls/v01.avi", settings=settings)
    content = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    after = train(tiny_run, tmp_path, settings)
    told = f"{before.num_train} videos then, {before.num_train + 1} now"
    assert after.was_complete and after.list_change == told
    assert train_without(tiny_run, tmp_path, "falls/v01.avi", settings=settings).list_change == ""
    with pytest.raises(StinPipeError, match=r"another configuration \(--lr: \S+ -> 0\.5\)"):
        train(tiny_run, tmp_path, config(epochs=1, lr=0.5))
    assert {path: path.read_bytes() for path in content} == content
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored.pop("num_train")  # as earlier versions wrote it
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert train(tiny_run, tmp_path, settings).list_change == told
    model = tmp_path / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    with pytest.raises(StinPipeError, match=r"damaged .* training list has changed since .*; delete"):
        train(tiny_run, tmp_path, settings)


def test_a_loss_that_is_not_finite_stops_and_names_step_and_videos(tiny_run, tmp_path, monkeypatch):
    honest = stin_pipe.stin.training.step.stream_loss
    calls = []

    def poisoned(output, labels, **more):
        calls.append(1)
        loss = honest(output, labels, **more)
        bad = loss.total * float("nan") if len(calls) == 3 else loss.total
        return StreamLoss(total=bad, main=loss.main, aux=loss.aux)

    monkeypatch.setattr(stin_pipe.stin.training.step, "stream_loss", poisoned)
    with pytest.raises(
        StinPipeError, match=r"step 3: the loss is nan .* videos of this batch: \w+/v\d\d\.avi, "
    ):
        train(tiny_run, tmp_path)
    # The last good checkpoint is that of step 2, and training goes on from it once the cause is gone.
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt"))[-1] == "step-00000002.pt"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    monkeypatch.undo()
    train(tiny_run, tmp_path)
    train(tiny_run, tmp_path.with_name("whole"))
    assert_same_training(tmp_path, tmp_path.with_name("whole"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_share": 0.25}, r"step 1: the loss on the held-out videos is nan, .* lower --lr"),
        (
            {"val_share": 0.0, "kind": "sgd", "lr": 1e38, "weight_decay": 100.0},
            r"step 1: weights are no longer finite \(\w.*\)\. .* lower --lr",
        ),
    ],
)
def test_a_training_that_diverges_at_its_last_step_is_no_finished_one(tiny_run, tmp_path, changes, message):
    settings = override(config(), **{"length": 1, "unit": "steps", "warmup": 0.0, "lr": 1e30, **changes})
    with pytest.raises(StinPipeError, match=message):
        train(tiny_run, tmp_path, settings)
    assert not (tmp_path / "model.safetensors").exists() and not (tmp_path / "best.safetensors").exists()
    assert not list((tmp_path / "checkpoints").glob("*.pt"))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["kind"] for line in lines] == ["train"]


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_model_file_is_noticed_and_written_again(tiny_run, tmp_path, damage):
    settings = config(epochs=1, val_share=0.0)
    result = train(tiny_run, tmp_path, settings)
    model = tmp_path / "model.safetensors"
    whole = model.read_bytes()
    assert result.model_sha256 == hashlib.sha256(whole).hexdigest()
    damaged = whole[:-1000] if damage == "cut" else whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:]
    model.write_bytes(damaged)
    with pytest.raises(StinPipeError, match=r"model\.safetensors: damaged .* run the train command again"):
        load_model(model)
    again = train(tiny_run, tmp_path, settings)
    assert model.read_bytes() == whole and not again.was_complete
    assert "damaged" in again.notices[0] and "written again from the last checkpoint" in again.notices[0]
    assert train(tiny_run, tmp_path, settings).was_complete

    model.write_bytes(damaged)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(StinPipeError, match=r"no checkpoint is left; delete .* to train again"):
        train(tiny_run, tmp_path, settings)


def test_a_result_without_a_digest_goes_on_working_and_one_without_content_is_told(tiny_run, tmp_path):
    settings = config(epochs=1, val_share=0.0)
    stored = train(tiny_run, tmp_path, settings).to_json()
    stored.pop("model_sha256")
    (tmp_path / "result.json").write_text(json.dumps(stored))
    assert train(tiny_run, tmp_path, settings).was_complete
    assert load_model(tmp_path / "model.safetensors").info.classes
    for content in ("{}", "[]"):
        (tmp_path / "result.json").write_text(content)
        with pytest.raises(StinPipeError, match=r"result\.json: .*; delete it to finish the training"):
            train(tiny_run, tmp_path, settings)


def test_a_batch_too_small_for_its_norms_is_refused_before_the_first_step(tiny_run, tmp_path):
    alone = config(batch_size=1, num_segments=1, injection=False)
    for settings in (alone, config(accumulate=4, num_segments=1, injection=False)):
        with pytest.raises(
            StinPipeError, match=r"1 segments of 24 px of a single video are too little .* raise"
        ):
            train(tiny_run, tmp_path / "one", settings)
    assert not (tmp_path / "one").exists()
    train(tiny_run, tmp_path / "three", override(alone, num_segments=3, epochs=1))


def test_a_validation_that_fails_costs_no_step_and_is_made_up_for(tiny_run, tmp_path, monkeypatch):
    settings = config(epochs=2, val_every_epochs=1)
    quiet = Runtime(tensorboard=False, device="cpu")  # saves at the end alone, or when something is wrong
    train(tiny_run, tmp_path / "whole", settings, runtime=quiet)

    honest, calls = stin_pipe.stin.training.loop.validate, []

    def damaged_at_first(*arguments, **more):
        calls.append(1)
        if len(calls) in (1, 2, 4):  # after the first epoch, again when resumed, and at the end
            raise StinPipeError("00001.h5: sha256 differs")
        return honest(*arguments, **more)

    monkeypatch.setattr(stin_pipe.stin.training.loop, "validate", damaged_at_first)
    for last in (2, 2, 4):
        with pytest.raises(StinPipeError, match="sha256 differs"):
            train(tiny_run, tmp_path / "out", settings, runtime=quiet)
        newest = sorted((tmp_path / "out" / "checkpoints").glob("*.pt"))[-1]
        assert newest.name == f"step-{last:08d}.pt"
    train(tiny_run, tmp_path / "out", settings, runtime=quiet)
    assert_same_training(tmp_path / "whole", tmp_path / "out")


def test_what_is_not_finite_is_null_in_the_metrics(tmp_path):
    with MetricsLog(tmp_path, num_bytes=0, step=0, tensorboard=False) as log:
        log.write("train", step=1, values={"loss": 0.5, "grad_norm": float("inf")})
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"kind": "train", "step": 1, "loss": 0.5, "grad_norm": None}


def test_too_little_memory_says_the_batch_and_the_flags(tiny_run, tmp_path, monkeypatch):
    def exhausted(*_arguments, **_more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(stin_pipe.stin.training.step, "stream_loss", exhausted)
    expected = (
        r"out of GPU memory at step 1 with 4 samples of 8 clips of 24 px; lower --batch-size or raise --acc"
    )
    with pytest.raises(StinPipeError, match=expected):
        train(tiny_run, tmp_path)


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_damaged_shard_stops_training_by_name_and_a_mended_one_resumes(
    made_shards, tmp_path, loader_workers
):
    made_shards.make_run(tmp_path / "run")
    shard = tmp_path / "run" / "extract" / "shards" / "00001.h5"
    content = shard.read_bytes()
    broken = bytearray(content)
    for place in range(len(broken) // 4, len(broken), 97):
        broken[place] ^= 0xFF
    shard.write_bytes(broken)
    runtime = Runtime(tensorboard=False, device="cpu", loader_workers=loader_workers)
    with pytest.raises(StinPipeError, match=r"00001\.h5: .*damaged.*verify --run RUN --repair") as caught:
        train(tmp_path / "run", tmp_path / "out", runtime=runtime)
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    shard.unlink()
    with pytest.raises(StinPipeError, match=r"00001\.h5: the shard is missing"):
        train(tmp_path / "run", tmp_path / "out", runtime=runtime)
    shard.write_bytes(content)
    assert train(tmp_path / "run", tmp_path / "out", runtime=runtime).steps == 6


def test_a_shard_made_anew_under_a_training_is_told(made_shards, tmp_path):
    made_shards.make_run(tmp_path / "run")
    manifest = Manifest.load(tmp_path / "run" / "extract" / "manifest.json")
    made_shards.make_run(tmp_path / "other", num_frames=13)  # the same ids with other content
    name = "shards/00001.h5"
    (tmp_path / "other" / "extract" / name).replace(tmp_path / "run" / "extract" / name)
    expected = r"00001\.h5: video rises/v\d\d\.avi is not the one that the manifest lists.* run extract again"
    with pytest.raises(StinPipeError, match=expected):
        train_stream(
            config(),
            manifest=manifest,
            extract_dir=tmp_path / "run" / "extract",
            out_dir=tmp_path / "out",
            split="1",
            runtime=QUIET,
        )


def test_a_loader_worker_that_dies_is_one_clear_error(tiny_run, tmp_path, monkeypatch):
    def die(self, key):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("stin_pipe.stin.clips.dataset.TrainingClips.__getitem__", die)
    runtime = Runtime(tensorboard=False, device="cpu", loader_workers=1)
    with pytest.raises(StinPipeError, match=r"a loader worker died .*lower --loader-workers"):
        train(tiny_run, tmp_path, runtime=runtime)


def test_a_full_or_forbidden_folder_is_one_clear_error(tiny_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StinPipeError, match="cannot be made"):
        train(tiny_run, tmp_path / "file" / "out")


def test_a_damaged_config_is_told(tiny_run, tmp_path):
    with pytest.raises(Interrupted):
        train(tiny_run, tmp_path, on_progress=stop_after(1))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(StinPipeError, match=r"config\.json: the configuration of the training cannot"):
        train(tiny_run, tmp_path)


def test_devices_that_are_absent_are_refused(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N, got 'tpu'"):
        train(tiny_run, tmp_path, runtime=Runtime(device="tpu"))
    if torch.cuda.device_count() < 64:
        with pytest.raises(ValueError, match="device cuda:63 is not here"):
            train(tiny_run, tmp_path, runtime=Runtime(device="cuda:63"))
    with pytest.raises(ValueError, match="amp fp16 needs a GPU"):
        train(tiny_run, tmp_path / "x", runtime=Runtime(device="cpu", amp="fp16"))
    # A wrong flag must not claim the folder for itself.
    assert train(tiny_run, tmp_path / "x").steps == 6


def test_metrics_hold_no_times(tiny_run, tmp_path):
    train(tiny_run, tmp_path)
    names = {
        name for line in (tmp_path / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)
    }
    expected = {"kind", "step", "loss", "main_loss", "aux_loss", "grad_norm", "lr"}
    expected |= {"top1", "main_top1", "aux_top1"}
    assert names == expected
