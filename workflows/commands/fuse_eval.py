"""`stin-pipe fuse-eval`: scores of both streams on the test list, joined by video id and fused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import AuxShare, Numbers, StreamFile

if TYPE_CHECKING:
    from stin_pipe.stin.results.split_result import Literature, SplitResult
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.workflows.run.score_streams import EvalSettings, StreamScores

EXAMPLES = """\b
Examples:
  stin-pipe fuse-eval --run runs/mine
  stin-pipe fuse-eval --run runs/ucf --split all
  stin-pipe fuse-eval --run runs/mine --tune-fusion                       # weights from held-out videos
  stin-pipe fuse-eval --run runs/mine --segments 10 --crops 1 --fusion-weights 1,2     # quick look
  stin-pipe fuse-eval --run runs/mine --scores pose=pose.csv --fusion-weights 1,1.5,0.5
"""


@click.command("fuse-eval", epilog=EXAMPLES)
@run_option()
@click.option("--split", default="1", help="Split to evaluate, or all for every split that is trained.")
@click.option("--segments", type=click.IntRange(min=1), default=25, help="Clips of a video.")
@click.option(
    "--crops",
    type=click.Choice(["1", "5", "10"]),
    default="10",
    help="Views of a clip: centre, + corners, + mirrored.",
)
@click.option(
    "--fusion-weights",
    type=Numbers(),
    metavar="RGB,FLOW[,...]",
    help="Weights of the spatial and the temporal stream, and of others in the order of --scores.  "
    "[default: 1,1.5]",
)
@click.option(
    "--tune-fusion",
    is_flag=True,
    help="Choose the weights on the held-out part of the training list; never on the test list.",
)
@click.option(
    "--fuse",
    "when",
    type=click.Choice(["before-softmax", "after-softmax"]),
    default="before-softmax",
    help="Where the weighted mean is taken.",
)
@click.option(
    "--aux",
    type=AuxShare(),
    default="auto",
    help="Auxiliary scores: as the models say, left out, or added with this weight.",
)
@click.option(
    "--scores",
    "files",
    type=StreamFile(),
    multiple=True,
    help="Scores of another program for spatial, temporal or a further stream: .npz, .json or .csv.",
)
@click.option(
    "--amp",
    type=click.Choice(["auto", "off", "bf16", "fp16"]),
    default="auto",
    help="Mixed precision; auto is bf16 on a GPU that has it.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--loader-workers", type=click.IntRange(min=0), help="Processes that read  [default: by cores]")
@common_options
def fuse_eval(output: Output, run_path: Path, split: str, **options: Any) -> None:
    """Score the test videos with both streams, fuse the scores, and write metrics.json and report.html.

    Weights and protocol are fixed beforehand, or chosen on held-out training videos (--tune-fusion); nothing
    is tuned on the test list. Videos that could not be extracted are counted: top1 is over scored videos,
    top1_of_listed counts the others as wrong. A killed scoring goes on at the next video.

    \b
    Files of --scores hold, for exactly the test list's videos:
      .csv   a header id,label,<class>,<class>,... and a line a video (label may be left out)
      .npz   ids, scores (videos x classes), and if you like labels and classes
      .json  an object with the same keys
    Rows that sum to 1 are taken for probabilities. Pickled files are refused.
    """
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.workflows.report.text import mean_of_splits, show_result
    from stin_pipe.workflows.run.how_made import listed_but_not_there
    from stin_pipe.workflows.run.run_dir import open_run, recorded
    from stin_pipe.workflows.run.training import require_split
    from stin_pipe.workflows.terminal.eval_settings import check_device, eval_settings
    from stin_pipe.workflows.terminal.options import usage_errors

    options["split"] = split
    settings = eval_settings(options)
    check_device(settings)
    run = open_run(run_path)
    manifest = Manifest.load(run.manifest)
    if split != "all":
        with usage_errors():
            require_split(manifest, split)
    if not_there := listed_but_not_there(manifest):
        output.warn(not_there)
    splits = _trained_splits(run, manifest) if split == "all" else [split]
    for name in splits:
        _require_trained(run, name, settings)
    with recorded(run, "fuse-eval", options):
        results = [evaluate_split(output, run, manifest, name, settings) for name in splits]
    for result in results:
        show_result(output, result)
    if split == "all":
        output.result(mean_of_splits(output, run, manifest, results))
    else:
        output.result(results[0].metrics)


def evaluate_split(
    output: Output, run: "RunDir", manifest: "Manifest", split: str, settings: "EvalSettings"
) -> "SplitResult":
    """Score and fuse one split, and write its scores, predictions, metrics and report.

    Raises:
        StinPipeError: a stream is not trained, the split has no test video, a score file does not fit, or
            another evaluation works on the split.
    """
    from stin_pipe.workflows.run.lock import run_lock

    out_dir = run.fusion(split)
    out_dir.mkdir(parents=True, exist_ok=True)
    lock = out_dir / "lock.json"
    with run_lock(lock, activity="evaluation", to_break=f"delete {lock}"):
        return _evaluate_locked(output, run, manifest, split, settings)


def _evaluate_locked(
    output: Output, run: "RunDir", manifest: "Manifest", split: str, settings: "EvalSettings"
) -> "SplitResult":
    from stin_pipe.stin.results.split_result import judge_split, prediction_lines, recordings_of
    from stin_pipe.stin.results.tuning import tune_fusion
    from stin_pipe.stin.scoring.fusion import fuse
    from stin_pipe.stin.scoring.scores import Scores
    from stin_pipe.stin.shards.publish import publish_bytes, publish_json
    from stin_pipe.workflows.report.render import render_report
    from stin_pipe.workflows.run.how_made import how_made, protocol_json
    from stin_pipe.workflows.run.score_streams import (
        score_file_digests,
        score_held_out,
        score_test_list,
        training_counts,
    )

    out_dir, counts = run.fusion(split), training_counts(run, split)
    tuning = None
    if settings.tune:
        held = score_held_out(output, run, manifest, split, settings)
        tuning = tune_fusion(*held, when=settings.when, recordings=recordings_of(manifest))
    weights = settings.given_weights if tuning is None else tuning.weights
    streams = score_test_list(output, run, manifest, split, settings)
    fused = fuse(*(item.scores for item in streams), weights=weights, when=settings.when)
    result = judge_split(
        split,
        [item.scores for item in streams],
        fused,
        manifest,
        protocol=protocol_json(streams, settings, tuning),
        report=str(out_dir / "report.html"),
        tuning=tuning,
        literature=_literature(manifest, split, streams, settings, counts["held_out"]),
        how_made=how_made(manifest, streams, settings, weights, tuning),
        trained=counts["train"],
        held_out=counts["held_out"],
    )
    Scores(
        ids=fused.ids,
        labels=fused.labels,
        class_names=fused.class_names,
        logits=fused.scores,
        main_logits=fused.scores,
        aux_logits=None,
        stream="fused",
        protocol={"weights": list(fused.weights), "when": fused.when},
    ).save(out_dir / "fused.npz")
    ours = [name for name in settings.names if name not in settings.files]
    result.metrics["score_files"] = score_file_digests(out_dir, [*ours, "fused"])
    _say_replaced(output, run, result)
    publish_bytes(out_dir / "predictions.jsonl", prediction_lines(result))
    publish_json(out_dir / "metrics.json", result.metrics)
    publish_bytes(out_dir / "report.html", render_report(run, manifest, result).encode())
    return result


def _say_replaced(output: Output, run: "RunDir", result: "SplitResult") -> None:
    """Tell when results that were made in another way give way to these."""
    from stin_pipe.stin.results.stored import read_metrics

    def way(metrics: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {"weights": metrics["fusion_weights"], "fusion": metrics["fusion"]}
        return {name: value for name, value in metrics["protocol"].items() if name != "weights_from"} | chosen

    if earlier := read_metrics(run.fusion(result.split)):
        before, now = way(earlier), way(result.metrics)
        if changed := [name for name in now if before.get(name) != now[name]]:
            output.warn(
                f"{run.fusion(result.split)}: earlier results with other {', '.join(changed)} are replaced; "
                "copy the folder beforehand to keep both"
            )


def _require_trained(run: "RunDir", split: str, settings: "EvalSettings") -> None:
    """Refuse to score before the streams that no file replaces are trained.

    Raises:
        StinPipeError: names the stream and the command to run first.
        click.UsageError: there are fewer clips than the streams need.
    """
    from stin_pipe.stin.network.model_file import read_model_info
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.workflows.run.score_streams import STREAMS, model_path
    from stin_pipe.workflows.terminal.eval_settings import check_segments

    for stream in STREAMS:
        path = model_path(run, stream, split)
        if stream in settings.files:
            continue
        if not path.exists():
            raise StinPipeError(
                f"{path.parent}: the {stream} stream of split {split} is not trained yet; "
                f"run `stin-pipe train-{stream} --run {run.path} --split {split}` first"
            )
        if stream == "spatial":
            check_segments(settings, spatial=read_model_info(path).stream)


def _trained_splits(run: "RunDir", manifest: "Manifest") -> list[str]:
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.workflows.run.score_streams import STREAMS, model_path

    found = [
        split
        for split in manifest.split_names
        if all(model_path(run, stream, split).exists() for stream in STREAMS)
    ]
    if not found:
        raise StinPipeError(
            f"{run.path}: no split has both streams trained; run train-spatial and train-temporal"
        )
    return found


def _literature(
    manifest: "Manifest",
    split: str,
    streams: Sequence["StreamScores"],
    settings: "EvalSettings",
    held_out: Mapping[str, int],
) -> "Literature":
    from stin_pipe.stin.results.literature import differences, published
    from stin_pipe.stin.results.split_result import Literature

    rows = published(manifest.dataset, "split 1") if split == "1" else ()
    if not rows:
        return Literature(rows=(), differences=())
    said = differences(
        backbones={item.scores.stream: item.info.stream.backbone for item in streams if item.info},
        num_segments=settings.segments,
        num_crops=settings.crops,
        num_held_out=max(held_out.values(), default=0),
    )
    return Literature(rows=rows, differences=said)
