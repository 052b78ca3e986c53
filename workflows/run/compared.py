"""Read the results of several runs or score files, and put them side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stin_pipe.stin.results.foreign_scores import read_labelled_scores
from stin_pipe.stin.results.how_made import SettingDifference, protocol_differences
from stin_pipe.stin.results.side_by_side import Contender, SideBySide, stand_side_by_side
from stin_pipe.stin.results.split_result import recordings_of
from stin_pipe.stin.results.stored import read_metrics, score_file_digests
from stin_pipe.stin.scoring.fusion import FUSED
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.run.run_dir import open_run


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of the results that are compared.

    Attributes:
        contender: its name and scores.
        path: run directory or score file.
        metrics: its metrics.json; empty for a score file.
        recordings: video id -> recording, where its run knows.
    """

    contender: Contender
    path: Path
    metrics: dict[str, Any]
    recordings: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """What a comparison comes to.

    Attributes:
        split: the runs' split.
        subjects: in the order given; the first is what the others are compared with.
        side_by_side: the numbers.
        protocol_differences: where the runs were evaluated differently.
    """

    split: str
    subjects: tuple[Subject, ...]
    side_by_side: SideBySide
    protocol_differences: tuple[SettingDifference, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "split": self.split,
            "subjects": [
                {
                    "name": item.contender.name,
                    "path": str(item.path),
                    "num_videos": len(next(iter(item.contender.streams.values())).ids),
                    "num_left_out": self.side_by_side.num_left_out[item.contender.name],
                    "how_made": item.metrics.get("how_made", []),
                }
                for item in self.subjects
            ],
            "num_common": self.side_by_side.num_common,
            "num_classes": self.side_by_side.num_classes,
            "protocol_differences": [item.sentence for item in self.protocol_differences],
            "settings": [asdict(item) for item in self.protocol_differences],
            "tables": [table.to_json() for table in self.side_by_side.tables],
        }


def compare_results(results: Sequence[Path], *, split: str) -> RunComparison:
    """Compare run directories or score files on the videos that all have.

    Args:
        results: two or more; the first is what the others are compared with.
        split: of the runs.

    Raises:
        ValueError: for fewer than two results, or one given twice.
        StinPipeError: a run is not evaluated, a file cannot be read, or they do not match.
    """
    if len(results) < 2:
        raise ValueError("give two or more run directories or score files")
    subjects = [
        read_subject(path, name, split) for path, name in zip(results, _short_names(results), strict=True)
    ]

    # A score file has one stream, whatever its run calls it: runs then stand beside it by their fusion.
    if any(not item.metrics for item in subjects):
        subjects = [_with_one_stream(item) for item in subjects]
    recordings: dict[str, str] = {}
    for item in reversed(subjects):
        recordings |= item.recordings  # where runs disagree, the first one's count
    return RunComparison(
        split=split,
        subjects=tuple(subjects),
        side_by_side=stand_side_by_side([item.contender for item in subjects], recordings=recordings),
        protocol_differences=protocol_differences(
            {item.contender.name: item.metrics for item in subjects if item.metrics}
        ),
    )


def read_subject(path: Path, name: str, split: str) -> Subject:
    """Read a run's evaluation of a split, or a score file.

    Raises:
        StinPipeError: it is missing, not evaluated, damaged, or a mixture of two evaluations.
    """
    if not path.exists():
        raise StinPipeError(f"{path}: no such run or score file; give another path")
    if not path.is_dir():
        contender = Contender(name=name, streams={"scores": read_labelled_scores(path)})
        return Subject(contender=contender, path=path, metrics={}, recordings={})
    if not (path / "run.json").exists():
        raise StinPipeError(
            f"{path}: is a folder without run.json, so not a run; give a run directory or a score file"
        )

    run = open_run(path)
    folder = run.fusion(split)
    again = f"`stin-pipe fuse-eval --run {run.path} --split {split}`"
    if not (folder / "metrics.json").exists():
        raise StinPipeError(f"{run.path}: split {split} of this run is not evaluated; run {again} first")
    metrics = read_metrics(folder)
    if not metrics:
        raise StinPipeError(f"{folder / 'metrics.json'}: is damaged; run {again} again")

    # An evaluation writes its score files one by one; between two of them the folder is of no evaluation.
    for stream in _of_another_evaluation(folder, metrics):
        raise StinPipeError(
            f"{folder / f'{stream}.npz'}: does not belong to the evaluation in metrics.json, which another "
            f"one is replacing or has begun to replace; wait for it, or run {again} again"
        )

    streams = {FUSED: Scores.load(folder / f"{FUSED}.npz")}
    shares = metrics["protocol"]["aux"]  # has no streams that came from files
    streams |= {stream: Scores.load(folder / f"{stream}.npz").with_aux(shares[stream]) for stream in shares}
    return Subject(
        contender=Contender(name=name, streams=streams),
        path=run.path,
        metrics=metrics,
        recordings=recordings_of(Manifest.load(run.manifest)),
    )


def _of_another_evaluation(folder: Path, metrics: Mapping[str, Any]) -> list[str]:
    """Return the streams whose score files are not those that the metrics were counted from."""
    expected = metrics.get("score_files", {})  # evaluations before 0.1.0 do not say
    streams = [stream for stream in expected if (folder / f"{stream}.npz").exists()]
    actual = score_file_digests(folder, streams)
    return [stream for stream in streams if actual[stream] != expected[stream]]


def _with_one_stream(item: Subject) -> Subject:
    """Call a run's fusion `scores`, as a file's only stream is called."""
    if not item.metrics:
        return item
    streams = {"scores": item.contender.streams[FUSED]}
    return replace(item, contender=Contender(name=item.contender.name, streams=streams))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Name each result by as few trailing parts of its path as tell all of them apart."""
    absolute = [path.absolute() for path in paths]
    for count in range(1, max(len(path.parts) for path in absolute)):
        names = ["/".join(path.parts[-count:]) for path in absolute]
        if len(set(names)) == len(names):
            return names
    raise ValueError("the same result is given more than once")
