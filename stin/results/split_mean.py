"""The mean of several splits' metrics, which is what papers compare, and its spread."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from stin_pipe.stin.results.literature import published
from stin_pipe.stin.results.numbers import percent
from stin_pipe.stin.results.split_result import SplitResult
from stin_pipe.stin.results.verdict import Finding
from stin_pipe.stin.scoring.fusion import FUSED
from stin_pipe.stin.shards.errors import counted

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
        "verdict": _verdict_json(results, {name: fmean(item["top1"]) for name, item in values.items()}),
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


def _verdict_json(results: Sequence[SplitResult], top1: Mapping[str, float]) -> dict[str, Any]:
    """Return what the splits show together; what is noise is known within a split alone.

    Splits share videos, so their differences are counted and not tested as one.
    """
    answer = results[0].verdict.answer
    verdicts = [item.verdict for item in results]
    best = max((name for name in top1 if name != FUSED), key=lambda name: top1[name])
    num_above = sum(verdict.beats_baseline[answer] for verdict in verdicts)
    above = f"more than guessing in {num_above} of {counted(len(results), 'split')}"
    if answer != FUSED:
        sentence = f"The {answer} stream alone reaches {percent(top1[answer])} % on average, {above}"
        return {"answer": answer, "num_above_baseline": num_above, "sentence": sentence}

    num_better = sum(verdict.finding is Finding.FUSION_BETTER for verdict in verdicts)
    num_worse = sum(verdict.finding is Finding.FUSION_WORSE for verdict in verdicts)
    sentence = (
        f"Fused {percent(top1[FUSED])} % on average, the {best} stream alone {percent(top1[best])} %: "
        f"by more than noise, fusing helps in {num_better} and hurts in {num_worse} of "
        f"{counted(len(results), 'split')}; the fusion is {above}"
    )
    return {
        "answer": answer,
        "best_stream": best,
        "num_above_baseline": num_above,
        "num_fusion_better": num_better,
        "num_fusion_worse": num_worse,
        "sentence": sentence,
    }
