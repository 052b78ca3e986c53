"""Read the results of several runs or score files, and put them side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stin_pipe.stin.results.foreign_scores import read_labelled_scores
from stin_pipe.stin.results.how_made import SettingDifference, protocol_differences
from stin_pipe.stin.results.side_by_side import Contender, SideBySide, stand_side_by_side
from stin_pipe.stin.results.split_result import recordings_of
from stin_pipe.stin.results.stored import members_in, read_metrics, read_result, score_file_digests
from stin_pipe.stin.results.trained import training_differences
from stin_pipe.stin.scoring.fusion import FUSED
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.run_dir import DEFAULT, SCORES_FILE, RunDir
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.run.run_dir import open_run
from stin_pipe.workflows.run.stages import STREAMS


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of the results that are compared.

    Attributes:
        contender: its name and scores.
        path: run directory or score file.
        metrics: its metrics.json; of a training that no evaluation stands behind only the protocol, and
            empty for a score file.
        trainings: stream -> folders of the trainings that made its scores.
        recordings: video id -> recording, where its run knows.
    """

    contender: Contender
    path: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    trainings: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    recordings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """What a comparison comes to.

    Attributes:
        split: the runs' split.
        subjects: in the order given; the first is what the others are compared with.
        side_by_side: the numbers.
        protocol_differences: where the runs were evaluated differently.
        training_differences: in what their trainings differ.
    """

    split: str
    subjects: tuple[Subject, ...]
    side_by_side: SideBySide
    protocol_differences: tuple[SettingDifference, ...]
    training_differences: tuple[SettingDifference, ...]

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
            "training_differences": [asdict(item) for item in self.training_differences],
            "tables": [table.to_json() for table in self.side_by_side.tables],
        }


def compare_results(results: Sequence[Path], *, split: str) -> RunComparison:
    """Compare results of runs or score files on the videos that all have.

    Args:
        results: two or more, the first is what the others are compared with: a run, RUN:NAME for one of its
            evaluations or trainings, or a score file.
        split: of the runs.

    Raises:
        ValueError: for fewer than two results, or one given twice.
        StinPipeError: a run is not evaluated, a file cannot be read, or they do not match.
    """
    if len(results) < 2:
        raise ValueError("give two or more results: runs, RUN:NAME, or score files")
    found = [Result.read(path) for path in results]
    subjects = [
        read_subject(result, name, split) for result, name in zip(found, _short_names(found), strict=True)
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
        training_differences=training_differences(
            {item.contender.name: item.trainings for item in subjects if item.trainings}
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is compared, as it was given: a run, one of its evaluations or trainings, or a score file."""

    path: Path
    name: str | None = None

    @classmethod
    def read(cls, given: Path) -> "Result":
        """Take RUN:NAME apart; a path that exists is a path, whatever characters it has."""
        run, colon, name = str(given).rpartition(":")
        if colon and not given.exists() and Path(run).is_dir():
            return cls(path=Path(run), name=name)
        return cls(path=given)


def read_subject(result: Result, shown: str, split: str) -> Subject:
    """Read a run's evaluation or training of a split, or a score file.

    Args:
        result: what is read.
        shown: what it is called beside the others.
        split: of the run.

    Raises:
        StinPipeError: it is missing, not evaluated, damaged, or a mixture of two evaluations.
    """
    path = result.path
    if not path.exists():
        raise StinPipeError(f"{path}: no such run or score file; give another path")
    if not path.is_dir():
        contender = Contender(name=shown, streams={"scores": read_labelled_scores(path)})
        return Subject(contender=contender, path=path)
    if not (path / "run.json").exists():
        raise StinPipeError(
            f"{path}: is a folder without run.json, so not a run; give a run directory or a score file"
        )

    run = open_run(path)
    name = result.name or DEFAULT
    evaluated, trained = run.evaluation_names(split), _trained_under(run, split, name)
    if name in evaluated or result.name is None:
        return _evaluation(run, split, name, shown)
    if trained:
        return _training(run, split, name, trained, shown)

    trainings = [item for stream in STREAMS for item in run.training_names(stream, split)]
    known = ", ".join(dict.fromkeys([*evaluated, *trainings])) or "none"
    raise StinPipeError(
        f"{run.path}: has no evaluation and no training {name!r} of split {split}; its names are: {known}"
    )


def _trained_under(run: RunDir, split: str, name: str) -> list[str]:
    """Return the streams that have a training of this name."""
    return [stream for stream in STREAMS if name in run.training_names(stream, split)]


def _evaluation(run: RunDir, split: str, name: str, shown: str) -> Subject:
    """Read the scores of an evaluation of a run."""
    folder = run.fusion(split, name)
    named = "" if name == DEFAULT else f" --name {name}"
    again = f"`stin-pipe fuse-eval --run {run.path} --split {split}{named}`"
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

    streams = {FUSED: Scores.load(folder / f"{FUSED}.npz")} if FUSED in metrics else {}
    shares = metrics["protocol"]["aux"]  # has no streams that came from files
    streams |= {stream: Scores.load(folder / f"{stream}.npz").with_aux(shares[stream]) for stream in shares}
    return Subject(
        contender=Contender(name=shown, streams=streams),
        path=run.path,
        metrics=metrics,
        trainings={
            stream: [run.training(stream, split, member) for member in members]
            for stream, members in members_in(metrics).items()
        },
        recordings=recordings_of(Manifest.load(run.manifest)),
    )


def _training(run: RunDir, split: str, name: str, streams: Sequence[str], shown: str) -> Subject:
    """Read the scores of a training, as an evaluation in which it took part has stored them.

    Raises:
        StinPipeError: no evaluation has scored the model that the training has now.
    """
    folders = {stream: run.training(stream, split, name) for stream in streams}
    scores: dict[str, Scores] = {}
    for stream, folder in folders.items():
        if (folder / SCORES_FILE).exists():
            found = Scores.load(folder / SCORES_FILE)
            if found.model_digest == read_result(folder).get("model_sha256", found.model_digest):
                scores[stream] = found
    if not scores:
        raise StinPipeError(
            f"{next(iter(folders.values()))}: this training is not scored on the test list yet; run "
            f"`stin-pipe fuse-eval --run {run.path} --split {split} --{streams[0]} {name}` first"
        )

    keys = {"num_segments": "segments", "num_crops": "crops", "precision": "precision"}
    asked = next(iter(scores.values())).protocol
    return Subject(
        contender=Contender(name=shown, streams=scores),
        path=run.path,
        metrics={"protocol": {shown_key: asked.get(key) for key, shown_key in keys.items()}},
        trainings={stream: [folders[stream]] for stream in scores},
        recordings=recordings_of(Manifest.load(run.manifest)),
    )


def _of_another_evaluation(folder: Path, metrics: Mapping[str, Any]) -> list[str]:
    """Return the streams whose score files are not those that the metrics were counted from."""
    expected = metrics.get("score_files", {})  # evaluations before 0.1.0 do not say
    streams = [stream for stream in expected if (folder / f"{stream}.npz").exists()]
    actual = score_file_digests(folder, streams)
    return [stream for stream in streams if actual[stream] != expected[stream]]


def _with_one_stream(item: Subject) -> Subject:
    """Call a run's fusion, or the stream that stands alone, `scores`, as a file's only stream is called.

    Raises:
        StinPipeError: a training of both streams, which nothing fuses.
    """
    if not item.metrics:
        return item
    streams = item.contender.streams
    if FUSED not in streams and len(streams) > 1:
        raise StinPipeError(
            f"{item.contender.name}: has scores of {' and '.join(streams)} and no fusion of them, so it "
            "cannot stand beside a score file; give an evaluation of the run"
        )
    answer = streams.get(FUSED) or next(iter(streams.values()))
    return replace(item, contender=Contender(name=item.contender.name, streams={"scores": answer}))


def _short_names(results: Sequence[Result]) -> list[str]:
    """Name each result by as few trailing parts of its path as tell all paths apart, and by its name in the
    run; of a single run by the latter alone.

    Raises:
        ValueError: a result is given twice.
    """
    absolute = [replace(item, path=item.path.absolute()) for item in results]
    if len(set(absolute)) < len(absolute):
        raise ValueError("the same result is given more than once")
    paths = list(dict.fromkeys(item.path for item in absolute))
    if len(paths) == 1:
        return [item.name or DEFAULT for item in absolute]

    for count in range(1, max(len(path.parts) for path in paths)):
        short = {path: "/".join(path.parts[-count:]) for path in paths}
        if len(set(short.values())) == len(paths):
            break
    return [short[item.path] + (f":{item.name}" if item.name else "") for item in absolute]
