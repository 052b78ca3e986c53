"""The mean of several splits' metrics, which is what papers compare, and its spread."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from stin_pipe.stin.results.literature import published
from stin_pipe.stin.results.split_result import SplitResult

METRICS = ("top1", "top5", "mean_class", "top1_of_listed")


def mean_of_splits(results: Sequence[SplitResult], *, dataset: str, report: str) -> dict[str, Any]:
    """Return mean and spread over the splits as JSON values, as fuse-eval/all.json holds them.

    Args:
        results: one a split.
        dataset: of the manifest; decides which published numbers stand beside ours.
        report: path of the page that will be written.
    """
    metrics = [item.metrics for item in results]
    values = {
        stream: {name: [item[stream][name] for item in metrics] for name in METRICS}
        for stream in results[0].analysis.accuracies
    }

    # Tuned weights differ from split to split; then no single ones stand for all.
    weights = [item["fusion_weights"] for item in metrics]
    # A paper's mean is over all three splits of the data set; ours stands beside it only if it is, too.
    rows = published(dataset, "mean of 3 splits") if len(results) == 3 else ()

    return {
        "split": "all",
        "splits": metrics,
        "num_videos": sum(item["num_videos"] for item in metrics),
        "num_listed": sum(item["num_listed"] for item in metrics),
        **{stream: {name: fmean(shares) for name, shares in values[stream].items()} for stream in values},
        "spread": {
            stream: {
                name: stdev(shares) if len(shares) > 1 else None for name, shares in values[stream].items()
            }
            for stream in values
        },
        "spread_is": "sample standard deviation between splits, null for one split",
        "fusion_weights": weights[0] if all(item == weights[0] for item in weights) else None,
        "fusion_weights_by_split": {item["split"]: item["fusion_weights"] for item in metrics},
        "streams": metrics[0]["streams"],
        "answer": metrics[0]["answer"],
        "literature": [row.to_json() for row in rows],
        "report": report,
    }
