"""Recipes are complete, overrides reach every part, and a configuration survives JSON."""

import json
import re
from dataclasses import asdict, replace
from itertools import pairwise

import click
import pytest
import torch
from torch import nn

from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.training.config import (
    OptimConfig,
    config_from_json,
    config_to_json,
    json_differences,
    override,
)
from stin_pipe.stin.training.optim import AveragedWeights, build_optimizer, learning_rate
from stin_pipe.stin.training.recipes import RECIPES, resolve_recipe
from stin_pipe.workflows.cli import cli
from stin_pipe.workflows.run.ablation import AblateOptions, chosen_variants
from stin_pipe.workflows.run.training import TrainOptions, training_config
from stin_pipe.workflows.terminal.training_options import RECIPE_NAMES


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_complete_named_and_survive_json(name, stream):
    config = resolve_recipe(name, stream)
    assert config.recipe == name
    assert config.stream_name == stream
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config
    assert build_stream(replace(config.stream, backbone="resnet18-w8"), num_classes=3) is not None


@pytest.mark.parametrize(
    ("name", "stream", "lr", "steps", "drops", "clip", "dropout"),
    [
        ("tsn-ucf101", "spatial", 1e-3, 3500, (1500, 3000), 40, 0.8),
        ("tsn-ucf101", "temporal", 5e-3, 18000, (10000, 16000), 20, 0.7),
        ("tsn-hmdb51", "spatial", 1e-3, 2500, (1000, 2000), 40, 0.8),
        ("tsn-hmdb51", "temporal", 5e-3, 7000, (4000, 6000), 20, 0.7),
    ],
)
def test_tsn_recipes_follow_the_published_schedule(name, stream, lr, steps, drops, clip, dropout):
    config = resolve_recipe(name, stream)
    optim = config.optim
    assert (optim.length, optim.unit, optim.batch_size, optim.momentum, optim.weight_decay) == (
        steps,
        "steps",
        128,
        0.9,
        5e-4,
    )
    assert (optim.clip_norm, config.stream.dropout, config.num_segments) == (clip, dropout, 3)

    def rate(step):
        return learning_rate(optim, step=step, total_steps=steps)

    for index, drop in enumerate(drops):
        assert rate(drop - 1) == pytest.approx(lr * 0.1**index)
        assert rate(drop) == pytest.approx(lr * 0.1 ** (index + 1))
    assert rate(0) == lr


def test_unknown_recipes_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown recipe 'big'; known: tsn-ucf101, tsn-hmdb51, small"):
        resolve_recipe("big", "spatial")


def test_override_reaches_every_part_and_leaves_the_rest():
    config = resolve_recipe("tsn-ucf101", "temporal")
    changed = override(
        config, epochs=7, lr=0.5, flip=False, seed=9, backbone="resnet18", aux_weight=0.1, batch_size=None
    )
    assert (changed.optim.length, changed.optim.unit, changed.optim.lr) == (7, "epochs", 0.5)
    assert (changed.augment.flip, changed.seed) == (False, 9)
    assert (changed.stream.backbone, changed.stream.aux_weight) == ("resnet18", 0.1)
    assert changed.optim.batch_size == config.optim.batch_size
    assert override(config) == config


def test_injection_off_makes_either_stream_plain():
    for stream in ("spatial", "temporal"):
        assert not resolve_recipe("small", stream).stream.is_plain
        assert override(resolve_recipe("small", stream), injection=False).stream.is_plain


def test_override_refuses_settings_that_the_stream_lacks():
    with pytest.raises(ValueError, match="the spatial stream has no setting 'attention'"):
        override(resolve_recipe("small", "spatial"), attention="sagan")
    for name, value, wanted in (
        ("ema_decay", "many", "a number"),
        ("momentum", True, "a number"),
        ("num_segments", 2.5, "a whole number"),
        ("flip", 1, "true or false"),
        ("scales", 1.0, "a list"),
        ("schedule", "cosin", "one of 'step', 'cosine'"),
        ("lr", float("inf"), "finite"),
        ("crop_px", 0, "in 16..4096"),
        ("scales", (), r"shares in \(0, 1\]"),
        ("jitter", 1.5, r"in \[0, 1\]"),
        ("seed", 2**63, r"in -2\*\*63..2\*\*63 - 1"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be {wanted}, got {re.escape(repr(value))}"):
            override(resolve_recipe("small", "spatial"), **{name: value})
    with pytest.raises(ValueError, match="each of milestones must be a number, got 'a'"):
        override(resolve_recipe("small", "spatial"), milestones=("a",))
    with pytest.raises(
        ValueError, match="attention must be one of 'sagan', 'nonlocal', 'cbam', 'none', got 'x'"
    ):
        override(resolve_recipe("small", "temporal"), attention="x")
    with pytest.raises(ValueError, match="no setting 'ema_deacy'; did you mean ema_decay"):
        override(resolve_recipe("small", "spatial"), ema_deacy=0.9)
    with pytest.raises(ValueError, match=r"no setting 'zz'; its settings are accumulate, .*weight_decay"):
        override(resolve_recipe("small", "spatial"), zz=1)
    with pytest.raises(ValueError, match="batch_size must be > 0, got 0"):
        override(resolve_recipe("small", "spatial"), batch_size=0)
    with pytest.raises(ValueError, match="differences need num_segments >= 2, got 1"):
        override(resolve_recipe("small", "spatial"), num_segments=1)


def test_configurations_of_another_version_are_refused():
    value = config_to_json(resolve_recipe("small", "spatial"))
    with pytest.raises(StinPipeError, match="not a training configuration of this version"):
        config_from_json({**value, "surprise": 1})
    value.pop("seed")
    del value["stream"]["tap"]
    assert config_from_json(value).seed == 0  # a missing field takes its default


def test_differences_are_listed_by_place():
    old = config_to_json(resolve_recipe("small", "spatial"))
    new = config_to_json(override(resolve_recipe("small", "spatial"), lr=0.5, seed=1))
    assert json_differences(old, new) == [f"optim.lr: {old['optim']['lr']} -> 0.5", "seed: 0 -> 1"]
    assert json_differences(old, old) == []
    assert json_differences({"a": 1}, {}) == ["a: 1 -> '(absent)'"]


def test_cosine_with_warm_up_rises_then_falls_to_zero():
    config = OptimConfig(lr=1.0, schedule="cosine", warmup=0.1)
    rates = [learning_rate(config, step=step, total_steps=100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert all(earlier >= later for earlier, later in pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-3


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_biases_norms_and_gamma_have_no_weight_decay(kind):
    network = build_stream(
        replace(resolve_recipe("small", "temporal").stream, backbone="resnet18-w8"), num_classes=3
    )
    optimizer = build_optimizer(network, OptimConfig(kind=kind, weight_decay=0.25))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = dict(network.named_parameters())
    assert decay[id(names["gamma"])] == decay[id(names["backbone.bn1.weight"])] == 0
    assert decay[id(names["head.bias"])] == 0
    assert decay[id(names["head.weight"])] == decay[id(names["backbone.conv1.weight"])] == 0.25
    assert len(decay) == len(names)


def test_frozen_parameters_are_not_optimised():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    optimizer = build_optimizer(layer, OptimConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


def test_averaged_weights_follow_their_recursion():
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
    average = AveragedWeights(layer, decay=0.9)
    expected = 0.0
    for step in range(200):
        with torch.no_grad():
            layer.weight.fill_(float(step))
        average.update(layer, step=step)
        decay = min(0.9, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * step
    assert average.values["weight"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr must be > 0, got 0.0"),
        ({"lr": float("nan")}, "lr must be > 0, got nan"),
        ({"length": 0}, "length must be > 0, got 0"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"clip_norm": -1.0}, "clip_norm must be >= 0, got -1.0"),
        ({"momentum": 2.0}, r"momentum must be in \[0, 1\), got 2.0"),
        ({"milestones": (0.5, 3.0)}, r"milestones must be shares in \[0, 1\], got \(0.5, 3.0\)"),
    ],
)
def test_optimiser_settings_outside_their_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**changes)


def test_override_refuses_what_stands_for_many_settings():
    for name in ("recipe", "stream", "augment", "optim"):
        with pytest.raises(
            ValueError, match=f"'{name}' cannot be set by itself; choose a recipe with --recipe"
        ):
            override(resolve_recipe("small", "spatial"), **{name: "temporal"})


def test_injection_is_true_or_false_and_agrees_with_the_form():
    config = resolve_recipe("small", "temporal")
    with pytest.raises(ValueError, match="injection must be true or false, got 0"):
        override(config, injection=0)
    with pytest.raises(ValueError, match="injection = false and attention = 'cbam' exclude each other"):
        override(config, injection=False, attention="cbam")
    assert override(config, injection=True) == config


def values_of(name, *arguments):
    """What the command line gives to a command's options object."""
    command = cli.get_command(click.Context(cli), name)
    values = command.make_context(name, ["--run", "r", *arguments]).params
    return {key: value for key, value in values.items() if key not in ("output", "run_path")}


@pytest.mark.parametrize(("command", "kind"), [("train-spatial", TrainOptions), ("ablate", AblateOptions)])
def test_options_have_the_names_and_defaults_of_the_flags(command, kind):
    assert values_of(command) == asdict(kind())


def test_settings_reach_the_training_and_none_is_dropped():
    def made(*arguments):
        return training_config("spatial", "folder", TrainOptions(**values_of("train-spatial", *arguments)))

    assert made("--set", "seed=7").seed == 7
    assert (made("--seed", "3").seed, made().seed) == (3, 0)
    for flags, told in (
        (("--seed", "1", "--set", "seed=7"), "--seed and --set seed decide the same; give one of them"),
        (("--epochs", "2", "--set", "length=7"), "--epochs and --set length"),
        (("--segments", "2", "--set", "num_segments=7"), "--segments and --set num_segments"),
        (("--plain", "--set", "difference=loss"), "--plain and --set difference"),
        (("--no-flip", "--set", "flip=true"), "--no-flip and --set flip"),
    ):
        with pytest.raises(ValueError, match=told):
            made(*flags)


def test_an_ablation_holds_out_what_was_asked_for(tmp_path):
    def shares(*arguments):
        options = AblateOptions(**values_of("ablate", "--only", "plain", *arguments))
        return {variant.config.val_share for variant in chosen_variants("folder", options)}

    assert shares() == {0.2}
    assert shares("--set", "val_share=0.5") == shares("--val-share", "0.5") == {0.5}
    file = tmp_path / "mine.toml"
    file.write_text('[a]\nstream = "spatial"\nseed = 3\n')
    for given in (("--set", "seed=7"), ("--variants", str(file))):
        with pytest.raises(ValueError, match="an ablation sets the seeds itself; give --seeds N"):
            shares(*given)


def test_the_recipes_that_a_shell_completes_are_those_there_are() -> None:
    assert tuple(RECIPES) == RECIPE_NAMES


def test_a_training_is_of_one_split() -> None:
    with pytest.raises(click.BadParameter, match="one split at a time; `stin-pipe run` trains all"):
        cli.main(["train-spatial", "--run", ".", "--split", "all"], standalone_mode=False)
