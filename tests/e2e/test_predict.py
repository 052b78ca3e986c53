"""predict on real and odd videos: right way up, honest about motion, and no stop at a broken file."""

import json
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.pipeline.decoding.frames import DecodeNotes, decode_frames
from stin_pipe.pipeline.demo_videos import SynthParams, make_videos
from stin_pipe.pipeline.flow import TVL1Params, tvl1_clip
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.fill import packed_fields
from stin_pipe.stin.network.model_file import ModelInfo, load_model, save_model
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_json
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe
from stin_pipe.workflows.cli import cli
from stin_pipe.workflows.prediction.model import load_model as load_streams
from stin_pipe.workflows.prediction.one_video import (
    UnusableVideo,
    VideoFile,
    make_one_video_run,
    single_frame,
)
from stin_pipe.workflows.prediction.stream_models import common_params
from stin_pipe.workflows.run.run_dir import create_run, read_run_json

CLASSES = ("a", "b", "c")
QUICK = ("--segments", "3", "--crops", "1")


EXTRACTION = ExtractParams(
    size=None, short_side=64, bound_px=5.0, flow_backend="cpu", flow=TVL1Params().as_record()
)


def save_models(folder: Path, params: ExtractParams) -> list[Path]:
    """Two model files with random weights, for videos stored as `params` say."""
    torch.manual_seed(1)
    paths = []
    for stream in ("spatial", "temporal"):
        config = override(resolve_recipe("small", stream), backbone="resnet18-w8").stream
        info = ModelInfo(
            stream=config,
            classes=CLASSES,
            num_segments=3,
            crop_px=56,
            flip=False,
            bound_px=5.0,
            extraction=asdict(params),
        )
        paths.append(folder / f"{stream}.safetensors")
        save_model(paths[-1], weights=build_stream(config, num_classes=3).state_dict(), info=info)
    return paths


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    """Options for two model files, for videos stored at short side 64."""
    spatial, temporal = save_models(tmp_path_factory.mktemp("models"), EXTRACTION)
    return ["--model", str(spatial), "--model", str(temporal)]


@pytest.fixture(scope="module")
def params(models) -> ExtractParams:
    return common_params({"spatial": (load_model(Path(models[1])),)})


def test_flow_is_made_with_the_parameters_that_the_model_was_trained_on(models):
    model = load_model(Path(models[3]))
    flow = {**model.info.extraction["flow"], "num_scales": 1, "median_filter": 3}
    info = replace(model.info, extraction={**model.info.extraction, "flow": flow})
    params = common_params({"temporal": (replace(model, info=info),)})
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 80), dtype=np.uint8)
    levers = TVL1Params(num_scales=1, median_filter=3)
    expected = tvl1_clip(frames, bound_px=5.0, params=levers, backend="cpu")
    np.testing.assert_array_equal(packed_fields(frames, params), expected)
    assert (expected != tvl1_clip(frames, bound_px=5.0, backend="cpu")).any()


def predictions(models, capsys, *videos, code=0):
    """Run the command in this process; return its predictions by file name."""
    returned = cli.main(["predict", *models, *QUICK, *map(str, videos), "--json"], standalone_mode=False)
    assert (returned or 0) == code
    value = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert value["exit_code"] == code
    return {Path(item["video"]).name: item for item in value["predictions"]}


@pytest.mark.shared_data
def test_real_clips_and_odd_ones_in_one_call(models, shared_data, capsys):
    odd = shared_data / "odd"
    good = [
        *sorted((shared_data / "clips" / "ucf101").rglob("*.avi"))[:2],
        *sorted((shared_data / "clips" / "hmdb51").rglob("*.avi"))[:1],
        odd / "derived" / "tall_64x480.avi",
        odd / "derived" / "truncated_no_index.avi",
        odd / "decord" / "video_90.mov",
        odd / "derived" / "one_frame.avi",
        odd / "derived" / "five_frames.avi",
    ]
    broken = [
        odd / "derived" / name
        for name in ("zero_bytes.avi", "text_named.avi", "audio_only.mp4", "truncated_no_moov_or_partial.mp4")
    ]
    found = predictions(models, capsys, broken[0], *good, *broken[1:], code=3)
    assert len(found) == len(good) + len(broken)
    for path in broken:
        assert set(found[path.name]) == {"video", "error"} and len(found[path.name]["error"]) > 10
    for path in good:
        item = found[path.name]
        assert len(item["spatial"]) == 3
        assert sum(top["probability"] for top in item["spatial"]) == pytest.approx(1, abs=1e-5)
    cut = found["truncated_no_index.avi"]
    assert cut["notes"]["damaged"] and cut["notes"]["decoded"] == cut["num_frames"]
    assert "notes" not in found[good[0].name]
    one = found["one_frame.avi"]
    assert "temporal" not in one and "fused" not in one and one["num_frames"] == 1
    assert one["motion"]["doubt"].startswith("a single frame has no motion: only the spatial stream answers")
    five = found["five_frames.avi"]
    assert five["num_frames"] == 5 and five["motion"]["num_fields"] == 4
    assert five["motion"]["doubt"] == "too few frames to tell: 4 flow fields do not fill a stack of 5"
    assert len(five["fused"]) == 3
    for path in good[:4]:
        assert found[path.name]["motion"]["doubt"] == "", path
    assert found["video_90.mov"]["num_frames"] == 3
    assert found["truncated_no_index.avi"]["num_frames"] == 34


@pytest.mark.shared_data
@pytest.mark.slow
def test_longer_videos_are_classified(models, shared_data, capsys):
    found = predictions(models, capsys, shared_data / "longer")
    assert len(found) == 4
    for item in found.values():
        assert item["num_frames"] > 100 and item["motion"]["doubt"] == "" and len(item["fused"]) == 3


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> Path:
    """A video of a moving disc, wider than high."""
    folder = tmp_path_factory.mktemp("moving")
    make_videos(folder, SynthParams(width=96, height=64, num_frames=12, train_per_class=1, test_per_class=0))
    return sorted((folder / "videos" / "red-up").iterdir())[0]


def ffmpeg(*arguments) -> None:
    subprocess.run([find_ffmpeg().path, "-v", "error", "-y", *map(str, arguments)], check=True)


def first_frame(folder, path, params):
    folder.mkdir()
    run = make_one_video_run(folder, VideoFile(path=path, timeout_s=60), classes=CLASSES, params=params)
    return run.reader().read_rgb(run.video.id, [0])[0].astype(float)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_video_is_seen_as_it_is_displayed(moving, params, tmp_path, quarters):
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    ffmpeg("-i", moving, "-c:v", "mpeg4", "-q:v", "2", plain)
    ffmpeg("-display_rotation", 90 * quarters, "-i", plain, "-c", "copy", turned)
    straight = first_frame(tmp_path / "a", plain, params)
    shown = first_frame(tmp_path / "b", turned, params)
    expected = np.rot90(straight, quarters)
    assert shown.shape == expected.shape
    assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.99


def test_a_standing_picture_is_too_little_to_say(models, moving, tmp_path, capsys):
    still = tmp_path / "still.avi"
    frames = ["-vf", "trim=end_frame=1,loop=loop=20:size=1,setpts=N/12/TB,noise=alls=2:allf=t"]
    ffmpeg("-i", moving, *frames, "-frames:v", 20, "-c:v", "mpeg4", "-q:v", 5, still)
    found = predictions(models, capsys, still, moving)
    motion = found["still.avi"]["motion"]
    assert motion["moving_share"] < 0.002 and "of the picture moves (less than 0.2 %)" in motion["doubt"]
    assert len(found["still.avi"]["fused"]) == 3  # it is said, not withheld
    assert found[moving.name]["motion"]["doubt"] == ""
    assert found[moving.name]["motion"]["moving_share"] > 0.02


def test_a_single_frame_gets_the_answer_that_its_picture_gets(models, moving, params, tmp_path, capsys):
    """The spatial stream's scores of one frame are those of a video that shows this frame throughout."""
    one, many = tmp_path / "one.avi", tmp_path / "many.avi"
    ffmpeg("-i", moving, "-frames:v", 1, "-c:v", "ffv1", one)
    ffmpeg("-i", one, "-vf", "loop=loop=6:size=1,setpts=N/12/TB", "-frames:v", 6, "-c:v", "ffv1", many)
    found = predictions(models, capsys, one, many)
    assert found["one.avi"]["spatial"] == found["many.avi"]["spatial"]
    assert single_frame(VideoFile(path=one, timeout_s=60), params).shape == (1, 64, 96, 3)
    # It has no overlay, which is told.
    told = cli.main(
        ["predict", *models, *QUICK, str(one), "--overlay", str(tmp_path / "shown.mp4")],
        standalone_mode=False,
    )
    assert not told and not (tmp_path / "shown.mp4").exists()
    assert "one.avi: no overlay is written of a single frame" in capsys.readouterr().err.replace("\n", "")
    # Without a spatial model there is nothing to say.
    alone = predictions(models[2:], capsys, one, code=1)
    assert alone["one.avi"]["error"].startswith("too_short: ")


def test_a_run_with_one_stream_says_which_is_not_trained(models, moving, tmp_path, capsys):
    folder = create_run(tmp_path / "run").training("spatial", "1")
    folder.mkdir(parents=True)
    shutil.copy(models[1], folder / "model.safetensors")
    publish_json(tmp_path / "run" / "run.json", read_run_json(tmp_path / "run"))
    found = cli.main(["predict", "--run", str(tmp_path / "run"), *QUICK, str(moving)], standalone_mode=False)
    assert not found
    assert "warning: the temporal stream of split 1 is not trained" in capsys.readouterr().err


def test_a_run_without_flow_says_how_it_is_added(models, moving, tmp_path, capsys):
    """Nobody can train the other stream of it, so "not trained" would send people the wrong way."""
    run = create_run(tmp_path / "run")
    run.training("spatial", "1").mkdir(parents=True)
    shutil.copy(models[1], run.training("spatial", "1") / "model.safetensors")
    publish_json(run.path / "run.json", read_run_json(run.path))
    run.extract.mkdir(exist_ok=True)
    manifest = Manifest(
        dataset="folder",
        classes=CLASSES,
        split_names=("1",),
        split_from="hash",
        split_source="",
        videos={},
        failed=(),
        num_skipped=0,
        num_absent=0,
        num_pending=0,
        bound_px=10.0,
        flow_backend="none",
        fingerprint="",
        streams="rgb",
    )
    manifest.save(run.manifest)
    words = ["predict", "--run", str(run.path), *QUICK, str(moving)]
    assert not cli.main(words, standalone_mode=False)
    told = capsys.readouterr().err
    assert "warning: the run stores no flow (the same extract or import command with --streams both" in told
    assert "predictions are those of the spatial stream alone" in told and "not trained" not in told
    with pytest.raises(StinPipeError, match="this run holds no flow"):
        cli.main([*words, "--streams", "fused"], standalone_mode=False)


def test_weights_that_are_none_are_refused(models, moving):
    import click

    with pytest.raises(click.UsageError, match="fusion weights must be two numbers >= 0"):
        cli.main(["predict", *models, str(moving), "--fusion-weights", "1,2,3"], standalone_mode=False)


def test_a_folder_goes_on_past_a_broken_file(models, moving, tmp_path, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a_broken.mp4").write_bytes(b"\0" * 5000)
    shutil.copy(moving, folder / "b_good.avi")
    found = predictions(models, capsys, folder, code=3)
    assert "error" in found["a_broken.mp4"] and len(found["b_good.avi"]["fused"]) == 3


def test_an_empty_folder_is_reported_and_the_rest_go_on(models, moving, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    found = predictions(models, capsys, tmp_path / "empty", moving, "--overlay", tmp_path / "shown", code=3)
    assert found["empty"]["error"] == f"empty: no video files in the folder {tmp_path / 'empty'}"
    assert len(found[moving.name]["fused"]) == 3
    assert [path.name for path in (tmp_path / "shown").iterdir()] == [f"{moving.stem}.overlay.mp4"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"codec": "png", "stride": 2},
        {"short_side": None, "size": (40, 72)},
        {"fps": 5.0},
        {"fps": 18.0, "stride": 3},
        {"fps": 30000 / 1001},
    ],
)
def test_frames_in_memory_get_the_scores_of_a_lossless_file(moving, tmp_path, changes):
    """Bit for bit, with either codec: they pass through a shard too, resized and resampled alike."""
    lossless = tmp_path / "lossless.mkv"
    ffmpeg("-i", moving, "-c:v", "ffv1", "-pix_fmt", "bgr0", lossless)
    frames = np.stack(list(decode_frames(lossless, DecodeNotes())))
    model = load_streams(
        save_models(tmp_path, replace(EXTRACTION, **changes)), segments=3, crops=1, device="cpu"
    )
    of_file, of_frames = model.predict(lossless), model.predict(frames, fps=12)
    assert of_file.num_frames == of_frames.num_frames and list(of_file.answers) == list(of_frames.answers)
    for name, answers in of_file.answers.items():
        np.testing.assert_array_equal(answers.scores, of_frames.answers[name].scores)
    assert of_file.motion == of_frames.motion
    assert (of_frames.source, of_file.source) == ("frames", str(lossless))
    of_tensor = model.predict(torch.from_numpy(frames), fps=12)
    np.testing.assert_array_equal(of_tensor.probabilities, of_frames.probabilities)
    if not changes:
        (one, one_file) = model.predict(frames[:1]), tmp_path / "one.mkv"
        ffmpeg("-i", lossless, "-frames:v", 1, "-c:v", "ffv1", one_file)
        np.testing.assert_array_equal(one.probabilities, model.predict(one_file).probabilities)
        assert list(one.answers) == ["spatial"] and one.too_little_motion and one.num_frames == 1


def test_a_prediction_in_python(models, moving, tmp_path):
    model = load_streams([models[1], models[3]], segments=3, crops=1, device="cpu")
    assert repr(model) == "<Model: spatial + temporal, 3 classes>" and model.classes == CLASSES
    steps = []
    overlay = tmp_path / "shown.mp4"
    prediction = model.predict(str(moving), overlay=overlay, on_progress=steps.append)
    assert [step.step for step in steps][:3] == ["extraction", "scoring", "scoring"]
    assert [step.stream for step in steps][:3] == [None, "spatial", "temporal"] and steps[-1].share == 1
    assert overlay.exists() and prediction.overlay == str(overlay)
    assert list(prediction.by_stream) == ["spatial", "temporal", "fused"]
    assert prediction.probabilities.shape == (3,) and prediction.probabilities.sum() == pytest.approx(1)
    top = prediction.top(2)
    assert len(top) == 2 and top[0][1] == prediction.probabilities.max() and top[0][0] == prediction.label
    assert not prediction.too_little_motion
    assert repr(prediction).startswith(f"<Prediction of {moving}: {prediction.label} 0.")
    alone = load_streams(Path(models[3]), segments=3, crops=1, device="cpu")
    assert list(alone.predict(moving).answers) == ["temporal"] and alone.predict(moving).fusion is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.zeros((4, 32, 32, 3), np.float32),
            r"uint8 RGB in 0\.\.255, got float32; floats in",
        ),
        (np.zeros((4, 32, 32, 3), np.int64), "uint8 RGB in 0..255, got int64"),
        (torch.zeros(4, 32, 32, 3), "uint8 RGB in 0..255, got float32"),
        (np.zeros((4, 3, 32, 32), np.uint8), r"\(T, H, W, 3\), got \(4, 3, 32, 32\); move the channels last"),
        (np.zeros((32, 32, 3), np.uint8), r"got \(32, 32, 3\); a single picture is frames\[None\]"),
        (np.zeros((4, 32, 32), np.uint8), r"the shape \(T, H, W, 3\), got \(4, 32, 32\)"),
        (np.zeros((0, 32, 32, 3), np.uint8), "at least one picture"),
        ([np.zeros((32, 32, 3), np.uint8)], "path of a file, or frames as a numpy array .*, got list"),
    ],
)
def test_frames_of_another_kind_are_refused_with_what_is_wanted(models, value, message):
    with pytest.raises(ValueError, match=message):
        load_streams(models[1], segments=3, crops=1, device="cpu").predict(value)


def test_rates_and_files_that_are_of_no_use(models, moving, tmp_path):
    model = load_streams(models[1], segments=3, crops=1, device="cpu")
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="fps belongs to frames in memory"):
        model.predict(moving, fps=25)
    with pytest.raises(ValueError, match="fps must be a number > 0, got 0"):
        model.predict(frames, fps=0)
    with pytest.raises(UnusableVideo, match=r"missing: .*there is no such file"):
        model.predict(tmp_path / "absent.mp4")
    with pytest.raises(UnusableVideo, match="odd_shape: frames: 320x16 is longer than 8:1"):
        model.predict(np.zeros((4, 16, 320, 3), np.uint8))
    resampling = load_streams(save_models(tmp_path, replace(EXTRACTION, fps=10.0))[0], device="cpu")
    with pytest.raises(ValueError, match="resampled to 10 frames a second; give the rate"):
        resampling.predict(frames)
    with pytest.raises(ValueError, match="is a second spatial model; give one of each"):
        load_streams([models[1], models[1]])
    with pytest.raises(ValueError, match="num_crops must be 1, 5 or 10, got 3"):
        load_streams(models[1], crops=3)
    with pytest.raises(ValueError, match="give a run directory, or the model file"):
        load_streams([])
    with pytest.raises(StinPipeError, match="no such model file"):
        load_streams(tmp_path / "absent.safetensors")


def test_only_what_the_chosen_stream_reads_is_made(models, tmp_path, capsys, monkeypatch):
    make_videos(tmp_path, SynthParams(num_frames=7, train_per_class=1, test_per_class=1))
    video = next((tmp_path / "videos").rglob("*.avi"))
    (fused,) = predictions(models, capsys, video).values()
    (temporal,) = predictions([*models, "--streams", "temporal"], capsys, video).values()
    assert set(fused) > {"spatial", "temporal", "fused"} and "spatial" not in temporal
    assert temporal["temporal"] == fused["temporal"] and temporal["motion"] == fused["motion"]

    def refuse(*_arguments, **_named):
        raise AssertionError("flow is computed")

    monkeypatch.setattr("stin_pipe.pipeline.shard.from_video.packed_fields", refuse)
    (spatial,) = predictions([*models, "--streams", "spatial"], capsys, video).values()
    assert spatial["spatial"] == fused["spatial"]
    assert not {"temporal", "fused", "motion"} & set(spatial)
    (alone,) = predictions(models[:2], capsys, video).values()
    assert alone == spatial, "a spatial model alone needs no flow either"


def test_streams_that_are_not_there_cannot_be_chosen(models):
    with pytest.raises(StinPipeError, match=r"--streams fused needs a temporal model, but .* holds none"):
        load_streams(models[1], streams="fused")
    with pytest.raises(ValueError, match="--streams spatial fuses nothing; leave --fusion-weights out"):
        load_streams(models[1::2], streams="spatial", fusion_weights=(1, 2))
    with pytest.raises(ValueError, match="streams must be spatial, temporal or fused, got 'rgb'"):
        load_streams(models[1::2], streams="rgb")  # pyright: ignore[reportArgumentType]


def test_models_trained_before_and_after_flow_was_added_fit_together(tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    spatial, _ = save_models(tmp_path / "before", EXTRACTION.only("rgb"))
    _, temporal = save_models(tmp_path / "after", EXTRACTION)
    assert load_streams([spatial, temporal]).params == EXTRACTION
    alone = load_streams(spatial).params
    assert (alone.only("rgb"), alone.bound_px, alone.flow_backend) == (EXTRACTION.only("rgb"), 5.0, "cpu")

    _, other = save_models(tmp_path / "after", replace(EXTRACTION, short_side=48))
    with pytest.raises(StinPipeError, match="differently extracted videos"):
        load_streams([spatial, other])


def test_an_ensemble_predicts_the_mean_of_its_trainings(tmp_path):
    model = load_model(save_models(tmp_path, EXTRACTION)[0])
    run = tmp_path / "run"
    for name, scale in (("a", 1.0), ("b", 1.3)):
        scaled = {
            key: value * scale if value.is_floating_point() else value
            for key, value in model.network.state_dict().items()
        }
        path = run / "train-spatial" / name / "split1" / "model.safetensors"
        path.parent.mkdir(parents=True)
        save_model(path, weights=scaled, info=model.info)
    (run / "run.json").write_text('{"format_version": 1, "commands": []}')
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 80, 3), dtype=np.uint8)

    def predict(video, **options):
        found = load_streams(run, segments=3, crops=1, device="cpu", **options).predict(video)
        return found.answers["spatial"].scores

    for video in (frames, frames[:1]):
        first, second = (predict(video, spatial=(name,)) for name in ("a", "b"))
        assert not np.allclose(first, second)
        both = predict(video, spatial=("a", "b"))
        np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-4, atol=1e-5)

    with pytest.raises(StinPipeError, match=r"training c of the spatial stream .* the trainings are: a, b"):
        predict(frames, spatial=("c",))
    with pytest.raises(ValueError, match="--temporal: and --streams spatial exclude each other"):
        predict(frames, spatial=("a",), temporal=("b",), streams="spatial")
    with pytest.raises(ValueError, match="--spatial: needs a run"):
        load_streams(run / "train-spatial/a/split1/model.safetensors", spatial=("a",))
