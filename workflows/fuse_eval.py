"""`stin-pipe fuse-eval`: scores of both streams on the test list, joined by video id and fused."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workflows.options import Numbers, common_options, run_option, usage_errors
from workflows.output import Output

if TYPE_CHECKING:
    from stin.evaluate import TestProtocol
    from stin.fusion import Accuracy, FusedScores
    from stin.scores import Scores
    from stin.shards.schema import Manifest
    from workflows.run_dir import RunDir

EXAMPLES = """\b
Examples:
  stin-pipe fuse-eval --run runs/mine
  stin-pipe fuse-eval --run runs/ucf --split all
  stin-pipe fuse-eval --run runs/mine --segments 10 --crops 1 --fusion-weights 1,2     # quick look
"""


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """Scores and accuracies of one split."""

    split: str
    spatial: "Scores"
    temporal: "Scores"
    fused: "FusedScores"
    accuracies: dict[str, "Accuracy"]
    metrics: dict[str, Any]


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
    default="1,1.5",
    metavar="RGB,FLOW",
    help="Weights of the spatial and the temporal stream.",
)
@click.option(
    "--fuse",
    "when",
    type=click.Choice(["before-softmax", "after-softmax"]),
    default="before-softmax",
    help="Where the weighted mean is taken.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--loader-workers", type=click.IntRange(min=0), help="Processes that read  [default: by cores]")
@common_options
def fuse_eval(output: Output, run_path: Path, split: str, **options: Any) -> None:
    """Score the test videos with both streams, fuse the scores, and write metrics.json and report.html.

    The weights and the protocol are fixed beforehand; nothing is tuned on the test list. Videos that could
    not be extracted are counted: top1 is over scored videos, top1_of_listed counts the others as wrong.
    """
    from stin.shards.schema import Manifest
    from workflows.run_dir import open_run, recorded
    from workflows.train import require_split

    weights = options["fusion_weights"]
    if len(weights) != 2 or min(weights) < 0 or sum(weights) <= 0:
        raise click.UsageError(
            "--fusion-weights: give two weights >= 0, spatial then temporal, such as 1,1.5"
        )
    run = open_run(run_path)
    manifest = Manifest.load(run.manifest)
    if split != "all":
        require_split(manifest, split)
    splits = _trained_splits(run, manifest) if split == "all" else [split]
    for name in splits:
        _require_trained(run, name)
    with recorded(run, "fuse-eval", options | {"split": split}), usage_errors():
        results = [evaluate_split(output, run, manifest, name, options) for name in splits]
    for result in results:
        show_result(output, result)
    if split == "all":
        output.result(_mean_of_splits(output, results))
    else:
        output.result(results[0].metrics)


def evaluate_split(
    output: Output, run: "RunDir", manifest: "Manifest", split: str, options: dict[str, Any]
) -> SplitResult:
    """Score and fuse one split, and write its metrics and its report.

    Raises:
        StinPipeError: a stream is not trained, or the split has no test video.
    """
    from stin.evaluate import TestProtocol
    from stin.fusion import accuracy, fuse
    from stin.shards.publish import publish_bytes, publish_json
    from workflows.report.render import render_report

    out_dir = run.fusion(split)
    out_dir.mkdir(parents=True, exist_ok=True)
    protocol = TestProtocol(num_segments=options["segments"], num_crops=int(options["crops"]))
    spatial, temporal = (
        score_stream(output, run, manifest, split, stream, protocol, options)
        for stream in ("spatial", "temporal")
    )
    when = "before_softmax" if options["when"] == "before-softmax" else "after_softmax"
    weights = (float(options["fusion_weights"][0]), float(options["fusion_weights"][1]))
    fused = fuse(spatial, temporal, weights=weights, when=when)
    num_listed = len(manifest.subset(split, "test")) + len(manifest.failed_of(split, "test"))
    accuracies = {
        "spatial": accuracy(spatial.logits, spatial.labels, num_listed=num_listed),
        "temporal": accuracy(temporal.logits, temporal.labels, num_listed=num_listed),
        "fused": accuracy(fused.scores, fused.labels, num_listed=num_listed),
    }
    metrics: dict[str, Any] = {
        "split": split,
        "num_videos": len(fused.ids),
        "num_listed": num_listed,
        **{name: _numbers(found) for name, found in accuracies.items()},
        "fusion_weights": list(weights),
        "fusion": when,
        "protocol": {"segments": protocol.num_segments, "crops": protocol.num_crops},
        "report": str(out_dir / "report.html"),
    }
    result = SplitResult(
        split=split,
        spatial=spatial,
        temporal=temporal,
        fused=fused,
        accuracies=accuracies,
        metrics=metrics,
    )
    publish_json(out_dir / "metrics.json", metrics)
    publish_bytes(out_dir / "report.html", render_report(run, manifest, result).encode())
    return result


def score_stream(
    output: Output,
    run: "RunDir",
    manifest: "Manifest",
    split: str,
    stream: str,
    protocol: "TestProtocol",
    options: dict[str, Any],
) -> "Scores":
    """Score the test list of a split with one trained stream; goes on where a killed scoring stopped."""
    from stin.device import choose_device
    from stin.evaluate import score_split
    from stin.model_file import load_model

    model = load_model(
        run.training(stream, split) / "model.safetensors", device=choose_device(options["device"])
    )
    total = len(manifest.subset(split, "test"))
    with output.progress(f"score {stream}", total, unit="videos") as meter:
        return score_split(
            model,
            manifest=manifest,
            extract_dir=run.extract,
            split=split,
            protocol=protocol,
            out_path=run.fusion(split) / f"{stream}.npz",
            loader_workers=options["loader_workers"],
            on_progress=lambda done, _total: meter.update(done),
        )


def _require_trained(run: "RunDir", split: str) -> None:
    """Refuse to score before both streams are trained.

    Raises:
        StinPipeError: names the stream and the command to run first.
    """
    from stin.shards.errors import StinPipeError

    for stream in ("spatial", "temporal"):
        folder = run.training(stream, split)
        if not (folder / "model.safetensors").exists():
            raise StinPipeError(
                f"{folder}: the {stream} stream of split {split} is not trained yet; "
                f"run `stin-pipe train-{stream} --run {run.path} --split {split}` first"
            )


def show_result(output: Output, result: SplitResult) -> None:
    """Print the table of one split."""
    metrics = result.metrics
    columns = ("top1", "top5", "mean_class", "top1_of_listed")
    output.table(
        f"split {result.split}: {metrics['num_videos']} of {metrics['num_listed']} listed test videos scored",
        ["stream", "top-1", "top-5", "mean class", "top-1 of listed"],
        [
            [name, *(f"{metrics[name][column]:.3f}" for column in columns)]
            for name in ("spatial", "temporal", "fused")
        ],
    )
    first, second = metrics["fusion_weights"]
    output.show(
        f"fused {first:g}:{second:g} {metrics['fusion'].replace('_', ' ')}; report: {metrics['report']}"
    )


def _numbers(found: "Accuracy") -> dict[str, float]:
    value = found.to_json()
    return {name: value[name] for name in ("top1", "top5", "mean_class", "top1_of_listed")}


def _trained_splits(run: "RunDir", manifest: "Manifest") -> list[str]:
    from stin.shards.errors import StinPipeError

    found = [
        split
        for split in manifest.split_names
        if all(
            (run.training(stream, split) / "model.safetensors").exists() for stream in ("spatial", "temporal")
        )
    ]
    if not found:
        raise StinPipeError(
            f"{run.path}: no split has both streams trained; run train-spatial and train-temporal"
        )
    return found


def _mean_of_splits(output: Output, results: list[SplitResult]) -> dict[str, Any]:
    names = ("top1", "top5", "mean_class", "top1_of_listed")
    mean = {
        stream: {name: sum(item.metrics[stream][name] for item in results) / len(results) for name in names}
        for stream in ("spatial", "temporal", "fused")
    }
    output.table(
        f"mean of {len(results)} splits",
        ["stream", "top-1", "top-5", "mean class", "top-1 of listed"],
        [[stream, *(f"{value:.3f}" for value in numbers.values())] for stream, numbers in mean.items()],
    )
    return {
        "split": "all",
        "splits": [json.loads(json.dumps(item.metrics)) for item in results],
        "num_videos": sum(item.metrics["num_videos"] for item in results),
        "num_listed": sum(item.metrics["num_listed"] for item in results),
        **mean,
        "fusion_weights": results[0].metrics["fusion_weights"],
        "report": results[0].metrics["report"],
    }
