"""Both streams: equal to the plain ones while nothing is injected, and blind to other videos."""

import pytest
import torch

from stin_pipe.stin.network.config import SpatialConfig, TemporalConfig
from stin_pipe.stin.network.streams import StreamOutput, build_stream, stream_scores
from stin_pipe.stin.training.optim import stream_loss

BACKBONE = "resnet18-w8"
SPATIAL = {"backbone": BACKBONE, "difference_channels": 8, "dropout": 0.0}
TEMPORAL = {"backbone": BACKBONE, "dropout": 0.0, "stack_len": 5}


def build(config, *, seed=0, num_classes=4):
    torch.manual_seed(seed)
    return build_stream(config, num_classes=num_classes)


def clips(config, *, samples=2, segments=4, seed=1):
    channels = 3 if isinstance(config, SpatialConfig) else 2 * config.stack_len
    return torch.randn(samples, segments, channels, 32, 32, generator=torch.Generator().manual_seed(seed))


def plain_and_stin(modes):
    for tap in ("layer2", "layer3", "layer4"):
        for form in ("signed", "abs", "l2"):
            for mode in modes:
                yield pytest.param(
                    SpatialConfig(**SPATIAL, difference="none", tap=tap),
                    SpatialConfig(**SPATIAL, difference=mode, difference_form=form, tap=tap),
                    id=f"{tap}-{form}-{mode}",
                )
        for attention in ("sagan", "nonlocal", "cbam"):
            yield pytest.param(
                TemporalConfig(**TEMPORAL, attention="none", tap=tap),
                TemporalConfig(**TEMPORAL, attention=attention, tap=tap),
                id=f"{tap}-{attention}",
            )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("plain", "stin"), [*plain_and_stin(("loss", "inject"))])
def test_one_seed_starts_the_stin_stream_equal_to_the_plain_one_bit_for_bit(plain, stin, training):
    first, second = build(plain).train(training), build(stin).train(training)
    x = clips(plain)
    assert torch.equal(first(x).logits, second(x).logits)
    assert first(x).aux_logits is None
    assert second(x).aux_logits is not None


@pytest.mark.parametrize(("plain", "stin"), [*plain_and_stin(("inject",))])
def test_the_injection_reaches_the_main_head_once_it_is_not_zero(plain, stin):
    first, second = build(plain).eval(), build(stin).eval()
    with torch.no_grad():
        if isinstance(stin, SpatialConfig):
            second.inject.weight.normal_()
        else:
            second.gamma.fill_(0.5)
    x = clips(plain)
    assert (first(x).logits - second(x).logits).abs().max() > 1e-6


@pytest.mark.parametrize(
    "config",
    [SpatialConfig(**SPATIAL, difference="none"), TemporalConfig(**TEMPORAL, attention="none")],
    ids=["spatial", "temporal"],
)
def test_permuting_segments_leaves_the_plain_streams_unchanged(config):
    network = build(config).eval()
    x = clips(config, segments=5)
    torch.testing.assert_close(network(x).logits, network(x[:, [3, 0, 4, 2, 1]]).logits, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("tap", ["layer2", "layer4"])
def test_permuting_segments_changes_the_injected_stream(tap):
    config = SpatialConfig(**SPATIAL, tap=tap)
    network = build(config).eval()
    with torch.no_grad():
        network.inject.weight.normal_()
    x = clips(config, segments=5)
    ordered, permuted = network(x), network(x[:, [3, 0, 4, 2, 1]])
    scale = ordered.logits.abs().mean()
    assert (ordered.logits - permuted.logits).abs().max() > 1e-3 * scale
    assert (ordered.aux_logits - permuted.aux_logits).abs().max() > 1e-5


@pytest.mark.parametrize(
    "config",
    [SpatialConfig(**SPATIAL, tap="layer3"), TemporalConfig(**TEMPORAL, tap="layer3")],
    ids=["spatial", "temporal"],
)
def test_no_gradient_crosses_from_one_video_or_crop_to_another(config):
    network = build(config).eval()  # batch norm in training mode shares statistics by design
    with torch.no_grad():
        if isinstance(config, SpatialConfig):
            network.inject.weight.normal_()
        else:
            network.gamma.fill_(1.0)
    x = clips(config, samples=3).requires_grad_()
    output = network(x)
    (output.logits[1].square().sum() + output.aux_logits[1].square().sum()).backward()
    assert (x.grad[[0, 2]] == 0).all()
    assert all(x.grad[1, k].abs().max() > 0 for k in range(4))


def test_differences_of_one_video_do_not_see_another():
    config = SpatialConfig(**SPATIAL)
    network = build(config).eval()
    x = clips(config)
    changed = x.clone()
    changed[1] = 7.0
    assert torch.equal(network(x).aux_logits[0], network(changed).aux_logits[0])


def test_the_last_segments_receive_the_last_difference():
    config = SpatialConfig(**SPATIAL, tap="layer4")
    network = build(config).eval()
    with torch.no_grad():
        network.inject.weight.normal_()
    x = clips(config, samples=1, segments=5)
    # With steps of 3 the differences are those of segments (0, 3) and (1, 4): the middle segment is in
    # neither, so it changes its own features alone.
    changed = x.clone()
    changed[:, 2] += 1
    first, second = network(x, difference_step=3), network(changed, difference_step=3)
    assert torch.equal(first.aux_logits, second.aux_logits)
    assert not torch.equal(first.logits, second.logits)


@pytest.mark.parametrize(
    ("config", "name", "shape"),
    [
        (SpatialConfig(**SPATIAL, tap="layer2"), "differences", (2, 3, 4, 4)),
        (TemporalConfig(**TEMPORAL, tap="layer3"), "attention", (2, 4, 2, 2)),
    ],
)
def test_maps_come_back_on_request_alone(config, name, shape):
    network = build(config).eval()
    x = clips(config)
    assert not network(x).maps
    found = network(x, return_maps=True).maps
    assert set(found) == {name}
    assert found[name].shape == shape
    if name == "differences":
        still = x[:, :1].expand_as(x)
        assert (network(still, return_maps=True).maps[name] == 0).all()
    else:
        torch.testing.assert_close(found[name].sum((2, 3)), torch.ones(2, 4))


def test_the_loss_is_main_plus_weighted_auxiliary_cross_entropy():
    logits, aux = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    labels = torch.tensor([0])
    main = torch.log(1 + torch.exp(torch.tensor(-2.0)))
    extra = torch.log(1 + torch.exp(torch.tensor(1.0)))
    loss = stream_loss(StreamOutput(logits=logits, aux_logits=aux), labels, aux_weight=0.5)
    torch.testing.assert_close(loss.total, main + 0.5 * extra)
    torch.testing.assert_close(loss.main, main)
    plain = stream_loss(StreamOutput(logits=logits, aux_logits=None), labels, aux_weight=0.5)
    torch.testing.assert_close(plain.total, main)
    assert plain.aux is None


def test_auxiliary_weight_zero_keeps_even_a_nan_away_from_the_main_head():
    aux = torch.full((1, 2), float("nan"), requires_grad=True)
    output = StreamOutput(logits=torch.zeros(1, 2, requires_grad=True), aux_logits=aux)
    loss = stream_loss(output, torch.tensor([0]), aux_weight=0.0)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert torch.isfinite(output.logits.grad).all()
    assert aux.grad is None


def test_the_auxiliary_loss_teaches_attention_from_the_first_step_on():
    config = TemporalConfig(
        **TEMPORAL, tap="layer3"
    )  # four places; with one there would be nothing to choose
    network = build(config)
    loss = stream_loss(network(clips(config)), torch.tensor([0, 1]), aux_weight=0.5)
    loss.total.backward()
    assert network.gamma.item() == 0
    assert network.attention.key.weight.grad.abs().max() > 0


def test_scores_add_the_auxiliary_share():
    output = StreamOutput(logits=torch.tensor([[1.0, 2.0]]), aux_logits=torch.tensor([[4.0, 0.0]]))
    assert stream_scores(output, aux_at_test=0.5).tolist() == [[3.0, 2.0]]
    assert stream_scores(output, aux_at_test=0).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (SpatialConfig, {"tap": "layer5"}, "tap must be one of layer1, layer2, layer3, layer4, got 'layer5'"),
        (SpatialConfig, {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        (SpatialConfig, {"difference_channels": 0}, "difference_channels must be >= 1, got 0"),
        (TemporalConfig, {"aux_weight": -1.0}, "aux_weight must be >= 0, got -1.0"),
        (TemporalConfig, {"aux_weight": float("nan")}, "aux_weight must be >= 0, got nan"),
        (TemporalConfig, {"stack_len": 0}, "stack_len must be >= 1, got 0"),
    ],
)
def test_settings_outside_their_range_are_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(**changes)
