"""What fuse-eval shows on the terminal: one split, and the mean of all."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from stin_pipe.stin.results.literature import published
from stin_pipe.stin.results.split_result import SplitResult
from stin_pipe.stin.shards.publish import publish_bytes, publish_json
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.report.splits import render_splits
from stin_pipe.workflows.terminal.output import Output

METRICS = ("top1", "top5", "mean_class", "top1_of_listed")


def show_result(output: Output, result: SplitResult) -> None:
    """Print the table of one split, the paired differences, and published numbers where there are any."""
    metrics = result.metrics
    output.table(
        f"split {result.split}: {metrics['num_videos']} of {metrics['num_listed']} listed test videos scored",
        ["stream", "top-1", "95 %", "top-5", "mean class", "top-1 of listed"],
        [
            [
                name,
                f"{metrics[name]['top1']:.3f}",
                "{:.3f} to {:.3f}".format(*metrics["intervals"][name]["top1"]),
                *(f"{metrics[name][column]:.3f}" for column in METRICS[1:]),
            ]
            for name in result.analysis.accuracies
        ],
    )
    for item in result.analysis.comparisons[: len(result.streams)]:
        low, high = item.top1.interval.to_json()
        output.show(
            f"{item.first} less {item.second}: {100 * item.top1.value:+.1f} points of top-1 "
            f"({100 * low:+.1f} to {100 * high:+.1f}), right alone {item.num_first_alone} and "
            f"{item.num_second_alone} videos, exact McNemar p {item.mcnemar_p:.2g}"
        )
    if result.literature.rows:
        output.table(
            "published, on the official lists (differences of protocol are in the report)",
            ["", "spatial", "temporal", "fused"],
            [
                [f"{row.method}, {row.scope}", *map(_share, (row.spatial, row.temporal, row.fused))]
                for row in result.literature.rows
            ],
        )
    if result.tuning is not None:
        output.show(
            f"the temporal stream's share {result.tuning.temporal_share:g} was chosen on "
            f"{result.tuning.num_videos} held-out training videos (top-1 there {result.tuning.top1:.3f})"
        )
    weights = ":".join(f"{weight:g}" for weight in metrics["fusion_weights"])
    output.show(f"fused {weights} {metrics['fusion'].replace('_', ' ')}; report: {metrics['report']}")


def mean_of_splits(
    output: Output, run: RunDir, manifest: Manifest, results: Sequence[SplitResult]
) -> dict[str, Any]:
    """Return mean and spread over splits, show them, and keep them in fuse-eval/all.json and report.html."""
    streams = list(results[0].analysis.accuracies)
    values = {
        stream: {name: [item.metrics[stream][name] for item in results] for name in METRICS}
        for stream in streams
    }
    mean = {stream: {name: fmean(found) for name, found in values[stream].items()} for stream in streams}
    spread = {
        stream: {name: stdev(found) if len(found) > 1 else None for name, found in values[stream].items()}
        for stream in streams
    }
    output.table(
        f"mean of {len(results)} splits ± standard deviation between them",
        ["stream", "top-1", "top-5", "mean class", "top-1 of listed"],
        [
            [stream, *(_spread_text(mean[stream][name], spread[stream][name]) for name in METRICS)]
            for stream in streams
        ],
    )
    weights = [item.metrics["fusion_weights"] for item in results]
    rows = published(manifest.dataset, "mean of 3 splits") if len(results) == 3 else ()
    value = {
        "split": "all",
        "splits": [item.metrics for item in results],
        "num_videos": sum(item.metrics["num_videos"] for item in results),
        "num_listed": sum(item.metrics["num_listed"] for item in results),
        **mean,
        "spread": spread,
        "spread_is": "sample standard deviation between splits, null for one split",
        "fusion_weights": weights[0] if all(item == weights[0] for item in weights) else None,
        "fusion_weights_by_split": {item.split: given for item, given in zip(results, weights, strict=True)},
        "streams": results[0].metrics["streams"],
        "literature": [row.to_json() for row in rows],
        "report": str(run.path / "fuse-eval" / "report.html"),
    }
    publish_json(run.path / "fuse-eval" / "all.json", value)
    publish_bytes(run.path / "fuse-eval" / "report.html", render_splits(run.path.name, value).encode())
    output.show(f"report of all splits: {value['report']}")
    return value


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _spread_text(mean: float, spread: float | None) -> str:
    return f"{mean:.3f}" if spread is None else f"{mean:.3f} ± {spread:.3f}"
