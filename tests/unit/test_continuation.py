"""Trainings that patience ends, and finished ones that go on."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stin_pipe.stin.continuation import begin_continuation, continued_config, with_continuations
from stin_pipe.stin.network.model_file import load_model
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import Runtime, TrainProgress, train_stream
from stin_pipe.stin.training.config import OptimConfig, config_from_json, config_to_json, override
from stin_pipe.stin.training.optim import Phase, continued_rate, learning_rate
from stin_pipe.stin.training.recipes import resolve_recipe
from stin_pipe.workflows.run.training import TrainOptions, training_config, training_place

QUIET = Runtime(tensorboard=False, checkpoint_every_steps=1, loader_workers=0)


def config(**changes):
    base = {"backbone": "resnet18-w8", "batch_size": 4, "epochs": 2, "flip": False, "val_share": 0.25}
    short = {"stack_len": 2, "num_segments": 2, "crop_px": 32, "val_every_epochs": 1}
    return override(resolve_recipe("small", "temporal"), **{**base, **short, **changes})


def manifest_of(run):
    return Manifest.load(run / "extract" / "manifest.json")


def train(run, out_dir, settings, **more):
    return train_stream(
        settings,
        manifest=manifest_of(run),
        extract_dir=run / "extract",
        out_dir=out_dir,
        split="1",
        runtime=QUIET,
        **more,
    )


def go_on(run, source, target, *, epochs=2, **more):
    settings = continued_config(source, target, epochs=epochs)
    begin_continuation(source, target, settings, manifest_of(run))
    return train(run, target, settings, **more)


def kill_at(step):
    def kill(event):
        if isinstance(event, TrainProgress) and event.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def in_a_process_that_is_killed(work):
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def weights(folder):
    return load_model(folder / "model.safetensors").network.state_dict()


def assert_same_training(first, second):
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    ours, theirs = weights(first), weights(second)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture(scope="module")
def finished(tiny_run, tmp_path_factory):
    """A training of two epochs, four steps."""
    folder = tmp_path_factory.mktemp("finished") / "training"
    train(tiny_run, folder, config())
    return folder


def rates(config, *phases):
    whole = [Phase(first_step=first, num_steps=num) for first, num in phases]
    end = whole[-1].first_step + whole[-1].num_steps
    return [continued_rate(config, whole, step=step) for step in range(end)]


def test_a_continuation_restarts_the_cosine_and_keeps_the_last_rate_of_steps():
    cosine = OptimConfig(lr=1.0, schedule="cosine", warmup=0.5)
    alone = [learning_rate(cosine, step=step, total_steps=8) for step in range(8)]
    assert rates(cosine, (0, 8)) == alone
    assert rates(cosine, (0, 8), (8, 4))[8:] == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert rates(cosine, (0, 8), (8, 4), (12, 2))[12:] == pytest.approx([1.0, 0.5])

    drops = OptimConfig(lr=1.0, schedule="step", milestones=(0.5,))
    assert rates(drops, (0, 4), (4, 3), (7, 2)) == pytest.approx([1, 1, 0.1, 0.1, *[0.1] * 5])
    assert rates(drops, (0, 4), (1, 3)) == pytest.approx([1, 1, 1, 1])  # stopped early, before the drop


def test_a_continuation_that_is_killed_ends_like_an_undisturbed_one(finished, tiny_run, tmp_path):
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    result = go_on(tiny_run, finished, tmp_path / "whole")
    assert (result.steps, result.epochs) == (8, 4)
    assert result.continued == ({"from_step": 4, "epochs": 2},)

    for step in (5, 7):
        in_a_process_that_is_killed(
            lambda step=step: go_on(tiny_run, finished, tmp_path / "killed", on_progress=kill_at(step))
        )
    go_on(tiny_run, finished, tmp_path / "killed")
    assert_same_training(tmp_path / "whole", tmp_path / "killed")
    assert before == {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    assert go_on(tiny_run, finished, tmp_path / "killed").was_complete


def test_in_place_the_old_model_stays_until_the_new_one_is_whole(finished, tiny_run, tmp_path):
    place = shutil.copytree(finished, tmp_path / "place")
    digest = load_model(place / "model.safetensors").digest
    in_a_process_that_is_killed(lambda: go_on(tiny_run, place, place, on_progress=kill_at(6)))
    assert load_model(place / "model.safetensors").digest == digest
    with pytest.raises(StinPipeError, match=r"is being continued by 2 epochs; .* --more-epochs 2"):
        continued_config(place, place, epochs=3)
    with pytest.raises(StinPipeError, match="is being continued by 2 epochs"):
        continued_config(place, tmp_path / "other", epochs=2)

    # The command that began the training goes on with it, too.
    settings = with_continuations(config(), place)
    assert train(tiny_run, place, settings).steps == 8
    go_on(tiny_run, finished, tmp_path / "whole")
    assert_same_training(place, tmp_path / "whole")
    assert load_model(place / "model.safetensors").digest != digest
    assert train(tiny_run, place, settings).was_complete

    assert go_on(tiny_run, place, place, epochs=1).steps == 10  # and once more
    assert [item.from_step for item in with_continuations(config(), place).continued] == [4, 8]


def test_a_copy_that_was_killed_is_made_again(finished, tiny_run, tmp_path):
    target = tmp_path / "copy"
    settings = continued_config(finished, target, epochs=2)
    begin_continuation(finished, target, settings, manifest_of(tiny_run))
    (mark,) = (target / "checkpoints").glob("*.json")
    mark.unlink()
    with pytest.raises(StinPipeError, match="give the command with --more-epochs again"):
        train(tiny_run, target, with_continuations(config(), target))
    go_on(tiny_run, finished, target)
    go_on(tiny_run, finished, tmp_path / "whole")
    assert_same_training(target, tmp_path / "whole")


def test_what_cannot_be_continued_is_refused(finished, tiny_run, tmp_path):
    with pytest.raises(StinPipeError, match="there is no such training"):
        continued_config(tmp_path / "absent", tmp_path / "new", epochs=2)
    with pytest.raises(StinPipeError, match="is not finished; train it to its end first"):
        (unfinished := shutil.copytree(finished, tmp_path / "unfinished")).joinpath("result.json").unlink()
        continued_config(unfinished, unfinished, epochs=2)
    with pytest.raises(StinPipeError, match=r"holds a training that is not .* continued by 2 epochs"):
        continued_config(finished, shutil.copytree(finished, tmp_path / "other"), epochs=2)

    gone = shutil.copytree(finished, tmp_path / "gone")
    shutil.rmtree(gone / "checkpoints")
    stored = (gone / "config.json").read_bytes()
    with pytest.raises(StinPipeError, match=r"the state after step 4, .* gone or damaged.*--name NEW"):
        go_on(tiny_run, gone, gone)
    fewer = replace(manifest_of(tiny_run), videos=dict(list(manifest_of(tiny_run).videos.items())[1:]))
    settings = continued_config(finished, finished, epochs=2)
    with pytest.raises(StinPipeError, match="the run's training list has changed since this training"):
        begin_continuation(finished, finished, settings, fewer)
    assert (gone / "config.json").read_bytes() == stored


def test_patience_ends_a_training_and_hands_on_the_best_weights(tiny_run, tmp_path):
    # So large a rate that the held-out loss soon gets worse for good.
    settings = config(epochs=40, lr=0.05, patience=2)
    result = train(tiny_run, tmp_path / "out", settings)
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if line["kind"] == "val"}
    best = min(losses, key=lambda step: losses[step])
    assert result.stopped_early and result.steps == best + 2 * 2 == max(losses)
    assert result.model_step == best
    model = load_model(tmp_path / "out/model.safetensors")
    assert model.info.training["step"] == best

    in_a_process_that_is_killed(
        lambda: train(tiny_run, tmp_path / "killed", settings, on_progress=kill_at(best + 3))
    )
    train(tiny_run, tmp_path / "killed", settings)
    assert_same_training(tmp_path / "out", tmp_path / "killed")

    # Patience counts anew when such a training goes on.
    more = go_on(tiny_run, tmp_path / "out", tmp_path / "more", epochs=2)
    assert more.steps == result.steps + 4


def test_patience_needs_held_out_videos(tiny_run, tmp_path):
    with pytest.raises(ValueError, match=r"--patience 3: .* nothing is held out \(val_share = 0\)"):
        config(patience=3, val_share=0.0)
    manifest = manifest_of(tiny_run)
    kept = {video.label: video for video in manifest.videos.values() if video.splits["1"] == "train"}
    lonely = replace(manifest, videos={video.id: video for video in kept.values()})
    with pytest.raises(StinPipeError, match=r"--patience 3: .* no class has two recordings"):
        train_stream(
            config(patience=3),
            manifest=lonely,
            extract_dir=tiny_run / "extract",
            out_dir=tmp_path,
            split="1",
        )


def test_trainings_of_earlier_versions_have_the_same_identity():
    stored = config_to_json(config())
    assert not {"patience", "continued"} & set(stored)
    assert config_from_json(stored) == config()
    with_more = replace(config(patience=3), continued=())
    assert config_from_json(config_to_json(with_more)) == with_more


RUN = Path("/run")


def place(**options):
    return training_place(RunDir(path=RUN), "spatial", TrainOptions(**options))


def test_every_training_has_a_place_of_its_own():
    assert place().folder == RUN / "train-spatial/split1"
    assert place(name="a", split="2").folder == RUN / "train-spatial/a/split2"
    more = place(name="a", more_epochs=2)
    assert more.source == more.folder
    assert place(name="a", more_epochs=2, continue_from="default").source == RUN / "train-spatial/split1"
    ablated = place(name="a", more_epochs=2, continue_from="ablate/spatial-plain/seed0")
    assert ablated.source == RUN / "ablate/spatial-plain/seed0"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "split2", "-a", "ablate", "a b", "x" * 101])
def test_a_name_that_cannot_be_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="--name must be up to 100 letters"):
        place(name=name)


def test_options_that_a_continuation_does_not_take_are_refused():
    with pytest.raises(ValueError, match="--continue-from: needs --more-epochs N"):
        place(name="a", continue_from="b")
    with pytest.raises(ValueError, match="--continue-from: a training of an ablation is called"):
        place(name="a", more_epochs=1, continue_from="ablate/../seed0")
    for option in ({"lr": 0.1}, {"plain": True}, {"settings": {"momentum": 0.5}}, {"num_segments": 3}):
        with pytest.raises(ValueError, match=r"keeps its settings; leave --(lr|plain|set|segments) out"):
            place(more_epochs=1, **option)
    assert training_config("spatial", "folder", TrainOptions(patience=2)).patience == 2
