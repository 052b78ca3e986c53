"""Model files that say or hold what no training writes are refused by name."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import stin_pipe.stin.network.model_file
from stin_pipe.stin.network.config import SpatialConfig
from stin_pipe.stin.network.model_file import ModelInfo, TrainedModel, load_model, save_model
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.shards.bounded import read_bytes
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.workflows.prediction.stream_models import common_params

SPATIAL = SpatialConfig(backbone="resnet18-w8", difference_channels=8)


def info(config):
    return ModelInfo(
        stream=config, classes=("a", "b", "c"), num_segments=3, crop_px=32, flip=False, bound_px=5.0
    )


def test_a_model_that_is_not_finite_is_refused(tmp_path):
    weights = dict(build_stream(SPATIAL, num_classes=3).state_dict())
    weights["head.bias"] = torch.tensor([0.0, float("nan"), 0.0])
    save_model(tmp_path / "m.safetensors", weights=weights, info=info(SPATIAL))
    with pytest.raises(StinPipeError, match=r"m\.safetensors: the weights head\.bias are not finite"):
        load_model(tmp_path / "m.safetensors")


EXTRACTION = {"size": [48, 32], "short_side": None, "bound_px": 4.0, "flow_backend": "cpu"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_px": 0}, "crop_px must be in 16..4096, got 0"),
        ({"crop_px": "x"}, "crop_px must be a whole number, got 'x'"),
        ({"num_segments": 0}, "num_segments must be >= 1, got 0"),
        ({"bound_px": 0}, "bound_px must be > 0, got 0"),
        ({"classes": ["a"]}, "classes must be two or more different names"),
        ({"classes": ["a", "a", "a"]}, "classes must be two or more different names"),
        ({"classes": [0, 1, 2]}, "each of classes must be text, got 0"),
        ({"extraction": [1]}, "extraction must be an object"),
        ({"stream": {"name": "spatial", "backbone": 5}}, "backbone must be text, got 5"),
        ({"stream": {"name": "spatial", "backbone": "nope"}}, "unknown backbone 'nope'"),
        ({"stream": {"name": "sound"}}, "stream must have the name 'spatial' or 'temporal', got 'sound'"),
        ({"surprise": 1}, "it has an unknown key 'surprise'"),
        ({"bound_px": 10**400}, "a number of more than 300 digits"),
        ({"bound_px": 1e400}, "bound_px must be finite"),
        (None, "it holds nothing where an object belongs"),
    ],
)
def test_descriptions_that_no_training_writes_are_refused(tmp_path, changes, message):
    path = tmp_path / "m.safetensors"
    stream = build_stream(SPATIAL, num_classes=3)
    save_model(path, weights=stream.state_dict(), info=info(SPATIAL))
    with safe_open(path, framework="pt") as opened:
        value = json.loads(opened.metadata()["stin_model"])
    text = json.dumps(None if changes is None else {**value, **changes})
    save_file(stream.state_dict(), path, metadata={"stin_model": text})
    with pytest.raises(
        StinPipeError, match=rf"m\.safetensors: damaged model description: .*{message}.*; give"
    ):
        load_model(path)


def test_a_description_larger_than_its_weights_takes_no_memory(tmp_path):
    huge = replace(SPATIAL, difference_channels=10**7)
    path = tmp_path / "m.safetensors"
    save_model(path, weights=build_stream(SPATIAL, num_classes=3).state_dict(), info=info(huge))
    with pytest.raises(
        StinPipeError, match=r"do not fit their description: \S+ is \(.*\), expected \(.*10000000"
    ):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"size": "ab"}, "whole numbers, got 'a'"),
        ({"size": [0, 0]}, "sides must be 16 to 4096 px"),
        ({"flow_backend": "nope"}, "backend must be auto, .* got 'nope'"),
        ({"codec": "zzz"}, "codec must be jpeg or png, got 'zzz'"),
        ({"bogus": 1}, "bogus"),
        ({"flow": {"bogus": 1}}, "bogus"),
        ({"flow": 3}, "flow"),
        ({"size": [4096, 4096]}, "sides must be at most 2048 px to predict, got 4096"),
        ({"fps": 1000.0}, "fps must be at most 240 to predict, got 1000"),
        (
            {"flow": {"max_iterations": 10_000, "num_warps": 20}},
            "at most 200,000, got 5 x 20 x 10000",
        ),
    ],
)
def test_how_frames_were_made_is_checked_before_any_video(changes, message):
    about = replace(info(SPATIAL), extraction={**EXTRACTION, **changes})
    model = TrainedModel(
        network=build_stream(SPATIAL, num_classes=3), info=about, digest="", device=torch.device("cpu")
    )
    if not changes:
        assert common_params({"spatial": (model,)}).size == (48, 32)
        return
    with pytest.raises(
        StinPipeError, match=f"extraction in the spatial model is damaged: .*{message}.*; give another"
    ):
        common_params({"spatial": (model,)})


def test_a_model_file_is_read_and_hashed_once_a_load(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, weights=build_stream(SPATIAL, num_classes=3).state_dict(), info=info(SPATIAL))
    (tmp_path / "result.json").write_text(
        json.dumps({"model_sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    )
    opened, hashed = [], []

    def read(path, kind, original=read_bytes):
        opened.append(path.name)
        return original(path, kind)

    def sha256(content, original=hashlib.sha256):
        hashed.append(len(content))
        return original(content)

    monkeypatch.setattr(stin_pipe.stin.network.model_file, "read_bytes", read)
    monkeypatch.setattr(hashlib, "sha256", sha256)
    monkeypatch.setattr(stin_pipe.stin.network.model_file, "safe_open", None)
    assert load_model(path).info == info(SPATIAL)
    assert (opened, hashed) == ([path.name], [path.stat().st_size])


def test_a_model_that_is_no_longer_what_its_training_wrote_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, weights=build_stream(SPATIAL, num_classes=3).state_dict(), info=info(SPATIAL))
    (tmp_path / "result.json").write_text(json.dumps({"model_sha256": "0" * 64}))
    with pytest.raises(StinPipeError, match=r"damaged since the training wrote it; run the train command"):
        load_model(path)
    path.rename(tmp_path / "copy.safetensors")  # a model on its own has nothing to be compared with
    assert load_model(tmp_path / "copy.safetensors").info == info(SPATIAL)
