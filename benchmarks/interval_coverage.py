"""How often the 95 % intervals of fuse-eval hold the truth, beside other intervals, on made answers.

    python benchmarks/interval_coverage.py --json coverage.json

A design has classes, recordings a class and videos a recording. Each recording has a chance of being right,
drawn around its class's; its videos are right by that chance. So the truth is known: the mean of the classes'
chances.
Needs scipy (for BCa), which comes with the development packages.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

from stin_pipe.stin.results.comparison import compare
from stin_pipe.stin.results.intervals import resample, share_interval, worth_by_class

DESIGNS = {  # classes, recordings a class, videos a recording, mean chance, spread of classes, of recordings
    "9 videos, one a class": (9, 1, 1, 0.9, 0.0, 0.0),
    "27 videos, 9 classes": (9, 3, 1, 0.7, 0.15, 0.0),
    "70 videos, 10 classes": (10, 7, 1, 0.95, 0.04, 0.0),
    "700 videos, 20 classes, recordings of 5": (20, 7, 5, 0.85, 0.1, 0.25),
    "1530 videos, 51 classes": (51, 30, 1, 0.6, 0.25, 0.0),
}
NUM_RESAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--bca-repeats", type=int, default=200, help="BCa is slow")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [row for name in DESIGNS for row in cover(name, arguments.repeats, arguments.bca_repeats)]
    for row in rows:
        what = f"{row['design']:42} {row['metric']:24} {row['method']:30}"
        print(f"{what} {row['coverage']:.3f} width {row['width']:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"repeats": arguments.repeats, "rows": rows}, indent=1))


def cover(name: str, repeats: int, bca_repeats: int) -> list[dict[str, object]]:
    num_classes, num_recordings, num_videos, mean, class_spread, recording_spread = DESIGNS[name]
    rng = np.random.default_rng(1)
    chances = np.clip(mean + class_spread * rng.standard_normal(num_classes), 0.02, 0.98)
    labels = np.repeat(np.arange(num_classes), num_recordings * num_videos)
    recordings = np.repeat(np.arange(num_classes * num_recordings), num_videos)
    truth, worth, total = float(chances.mean()), worth_by_class(labels), float(len(labels))
    held: dict[tuple[str, str], list[tuple[bool, float]]] = {}

    def note(metric: str, method: str, low: float, high: float, value: float = truth) -> None:
        held.setdefault((metric, method), []).append((low - 1e-12 <= value <= high + 1e-12, high - low))

    for repeat in range(repeats):
        right = draw(rng, chances, num_recordings, num_videos, recording_spread)
        drawn = resample(right[:, None], labels, recordings, num_resamples=NUM_RESAMPLES, seed=repeat)
        for metric, means, most in (("top1", drawn.overall, total), ("mean_class", drawn.by_class, worth)):
            ours = share_interval(float(right.mean()), standard_error=float(means.std()), largest_n=most)
            note(metric, "ours", ours.low, ours.high)
            note(metric, "percentile, recordings", *np.quantile(means[:, 0], [0.025, 0.975]))
            alone = share_interval(float(right.mean()), standard_error=0.0, largest_n=most)
            note(metric, "Wilson, videos as independent", alone.low, alone.high)
        if repeat < bca_repeats:
            note("top1", "BCa, videos as independent", *bca(right))
        other = draw(rng, chances, num_recordings, num_videos, recording_spread)
        pair = compare("a", right.astype(bool), "b", other.astype(bool), labels, recordings)
        for metric in ("top1", "mean_class"):
            found = getattr(pair, metric).interval
            note(f"difference of {metric}", "ours", found.low, found.high, 0.0)
    return [
        {
            "design": name,
            "metric": metric,
            "method": method,
            "coverage": float(np.mean([hit for hit, _ in found])),
            "width": float(np.mean([width for _, width in found])),
            "repeats": len(found),
        }
        for (metric, method), found in held.items()
    ]


def draw(
    rng: np.random.Generator, chances: np.ndarray, num_recordings: int, num_videos: int, spread: float
) -> np.ndarray:
    """Draw right and wrong; a recording's chance is Beta around its class's, with this standard deviation."""
    own = np.repeat(chances, num_recordings)
    if spread > 0:
        limited = np.minimum(spread, 0.9 * np.sqrt(own * (1 - own)))
        total = own * (1 - own) / limited**2 - 1
        own = rng.beta(own * total, (1 - own) * total)
    return (rng.random(len(own) * num_videos) < np.repeat(own, num_videos)).astype(float)


def bca(right: np.ndarray) -> tuple[float, float]:
    if right.min() == right.max():  # BCa is not defined there
        return float(right.min()), float(right.max())
    found = bootstrap((right,), np.mean, n_resamples=NUM_RESAMPLES, method="BCa", rng=0).confidence_interval
    return float(found.low), float(found.high)


if __name__ == "__main__":
    main()
