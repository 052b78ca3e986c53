"""Weights from elsewhere: what fits is taken, what does not is named, nothing is unpickled."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from stin_pipe.stin.network.backbones import ResNet
from stin_pipe.stin.network.config import SpatialConfig, TemporalConfig
from stin_pipe.stin.network.model_file import ModelInfo, load_model, read_model_info, save_model
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.network.weights import cross_modality, start_from
from stin_pipe.stin.shards.errors import StinPipeError

SPATIAL = SpatialConfig(backbone="resnet18", difference_channels=8)
TEMPORAL = TemporalConfig(backbone="resnet18")


@pytest.fixture(scope="module")
def published():
    """A state dictionary named as torchvision names a ResNet-18's."""
    torch.manual_seed(7)
    return ResNet("resnet18", num_classes=1000).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_torchvision_file_fills_the_backbone(tmp_path, published, suffix, prefix):
    path = tmp_path / f"weights{suffix}"
    named = {prefix + name: value for name, value in published.items()}
    save_file(named, path) if suffix == ".safetensors" else torch.save(named, path)
    stream = build_stream(SPATIAL, num_classes=4)
    notices = start_from(stream, path)
    for name, value in stream.backbone.state_dict().items():
        assert torch.equal(value, published[name]), name
    missing = "aux_head, difference, head, inject"
    assert notices == (f"not in weights{suffix}, so initialised at random: {missing}",)


def test_the_flow_stream_starts_its_first_layer_from_the_mean_over_colours(tmp_path, published):
    torch.save(published, tmp_path / "w.pth")
    stream = build_stream(TEMPORAL, num_classes=4)
    notices = start_from(stream, tmp_path / "w.pth")
    mean = published["conv1.weight"].mean(1)
    for channel in range(10):
        assert torch.equal(stream.backbone.conv1.weight[:, channel], mean)
    assert notices[0] == "the first layer of 10 channels starts from the mean over 3"


def test_cross_modality_keeps_the_response_to_grey_in_proportion():
    weight = torch.randn(4, 3, 7, 7)
    grey = torch.randn(1, 1, 7, 7)
    rgb = torch.nn.functional.conv2d(grey.repeat(1, 3, 1, 1), weight)
    flow = torch.nn.functional.conv2d(grey.repeat(1, 10, 1, 1), cross_modality(weight, num_channels=10))
    torch.testing.assert_close(flow, rgb * 10 / 3, rtol=1e-4, atol=1e-4)


def test_weights_of_another_backbone_are_refused_with_the_first_misfits(tmp_path):
    torch.save(ResNet("resnet34", num_classes=10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(StinPipeError, match=r"does not fit backbone resnet18: .*layer1\.2\..* and \d+ more"):
        start_from(build_stream(SPATIAL, num_classes=4), tmp_path / "w.pth")
    torch.save(ResNet("resnet18", width=32).state_dict(), tmp_path / "n.pth")
    with pytest.raises(
        StinPipeError, match=r"backbone\.conv1\.weight is \(32, 3, 7, 7\), wanted \(64, 3, 7, 7\)"
    ):
        start_from(build_stream(SPATIAL, num_classes=4), tmp_path / "n.pth")


def test_a_refused_file_leaves_the_stream_as_it_was(tmp_path):
    torch.save(ResNet("resnet34").state_dict(), tmp_path / "w.pth")
    stream = build_stream(SPATIAL, num_classes=4)
    before = {name: value.clone() for name, value in stream.state_dict().items()}
    with pytest.raises(StinPipeError):
        start_from(stream, tmp_path / "w.pth")
    assert all(torch.equal(value, before[name]) for name, value in stream.state_dict().items())


class Malicious:
    """Runs a command when unpickled."""

    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "w.pth"),
        (b"not weights at all", "w.pth"),
        (pickle.dumps({"conv1.weight": Malicious()}), "w.pth"),
    ],
)
def test_files_that_are_no_weights_are_refused(tmp_path, capsys, content, message):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(StinPipeError, match=message):
        start_from(build_stream(SPATIAL, num_classes=4), path)
    assert "unpickled" not in capsys.readouterr().out


def test_files_with_other_things_than_tensors_are_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(StinPipeError, match="'epoch' is not a tensor; save a state_dict"):
        start_from(build_stream(SPATIAL, num_classes=4), tmp_path / "w.pth")
    torch.save([1, 2], tmp_path / "l.pth")
    with pytest.raises(StinPipeError, match="holds no named tensors"):
        start_from(build_stream(SPATIAL, num_classes=4), tmp_path / "l.pth")
    (tmp_path / "w.safetensors").write_bytes(b"\x00" * 30)
    with pytest.raises(StinPipeError, match="not a readable weights file"):
        start_from(build_stream(SPATIAL, num_classes=4), tmp_path / "w.safetensors")
    with pytest.raises(StinPipeError, match="no such weights file"):
        start_from(build_stream(SPATIAL, num_classes=4), tmp_path / "absent.pth")


def info(config, classes=("a", "b", "c")):
    return ModelInfo(
        stream=config,
        classes=classes,
        num_segments=3,
        crop_px=32,
        flip=False,
        bound_px=5.0,
        training={"recipe": "small"},
        extraction={"short_side": 36},
    )


@pytest.mark.parametrize("config", [SPATIAL, TEMPORAL])
def test_a_model_file_brings_everything_back(tmp_path, config):
    torch.manual_seed(0)
    stream = build_stream(config, num_classes=3)
    save_model(tmp_path / "m.safetensors", weights=stream.state_dict(), info=info(config))
    assert read_model_info(tmp_path / "m.safetensors") == info(config)
    model = load_model(tmp_path / "m.safetensors")
    assert model.info == info(config)
    assert not model.network.training
    clips = torch.randn(1, 3, 3 if config is SPATIAL else 10, 32, 32)
    assert torch.equal(model.network(clips).logits, stream.eval()(clips).logits)


def test_loading_a_model_leaves_torchs_generator_alone(tmp_path):
    save_model(
        tmp_path / "m.safetensors",
        weights=build_stream(SPATIAL, num_classes=3).state_dict(),
        info=info(SPATIAL),
    )
    before = torch.get_rng_state()
    load_model(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_of_other_classes_starts_all_but_the_heads(tmp_path):
    torch.manual_seed(0)
    donor = build_stream(SPATIAL, num_classes=3)
    save_model(tmp_path / "m.safetensors", weights=donor.state_dict(), info=info(SPATIAL))
    stream = build_stream(SPATIAL, num_classes=5)
    notices = start_from(stream, tmp_path / "m.safetensors")
    given = donor.state_dict()
    for name, value in stream.state_dict().items():
        assert torch.equal(value, given[name]) != name.startswith(("head.", "aux_head.")), name
    assert notices == ("not in m.safetensors, so initialised at random: aux_head, head",)


def test_files_that_are_no_models_are_refused(tmp_path, published):
    save_file(published, tmp_path / "w.safetensors")
    with pytest.raises(StinPipeError, match="holds weights but no stin-pipe model"):
        load_model(tmp_path / "w.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(StinPipeError, match=r"no model file \(.*\); a training writes .*safetensors: give"):
        load_model(tmp_path / "x.safetensors")
    with pytest.raises(StinPipeError, match="no such model file"):
        load_model(tmp_path / "absent.safetensors")


def test_a_model_whose_weights_do_not_fit_its_description_is_refused(tmp_path):
    narrow = build_stream(SpatialConfig(backbone="resnet18-w8"), num_classes=3)
    save_model(tmp_path / "m.safetensors", weights=narrow.state_dict(), info=info(SPATIAL))
    with pytest.raises(StinPipeError, match="the weights do not fit their description"):
        load_model(tmp_path / "m.safetensors")
