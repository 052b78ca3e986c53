"""Train one stream of a run: options to a complete configuration, then the training, locked and recorded."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stin_pipe.pipeline.planning.ledger import plan_paths
from stin_pipe.pipeline.planning.listed import ListingRecord
from stin_pipe.pipeline.planning.plan import Plan, joined_params
from stin_pipe.pipeline.planning.sources import looks_changed
from stin_pipe.stin.continuation import begin_continuation, continued_config, with_continuations
from stin_pipe.stin.device import Amp, Runtime
from stin_pipe.stin.network.backbones import check_backbone_name
from stin_pipe.stin.network.config import StreamName
from stin_pipe.stin.shards.errors import ArgumentError, counted
from stin_pipe.stin.shards.names import make_inside
from stin_pipe.stin.shards.run_dir import DEFAULT, RunDir, check_name, check_training_name
from stin_pipe.stin.shards.schema import STORED_OF, Manifest
from stin_pipe.stin.train import train_stream
from stin_pipe.stin.train_on_ray import WorkerCount, train_on_ray
from stin_pipe.stin.training.config import TrainConfig, override
from stin_pipe.stin.training.ranks import is_first_process
from stin_pipe.stin.training.recipes import resolve_recipe
from stin_pipe.stin.training.report import TrainEvent, TrainNotice, TrainResult
from stin_pipe.workflows.run.lock import run_lock
from stin_pipe.workflows.run.run_dir import open_run, recorded

RECIPE_OF_DATASET = {"ucf101": "tsn-ucf101", "hmdb51": "tsn-hmdb51"}

_SETTINGS_OF_FLAGS = {
    "backbone": ("backbone",),
    "init": ("init",),
    "epochs": ("epochs", "length", "unit"),
    "batch_size": ("batch_size",),
    "lr": ("lr",),
    "num_segments": ("num_segments",),
    "aux_weight": ("aux_weight",),
    "plain": ("injection", "difference", "attention"),
    "no_flip": ("flip",),
    "val_share": ("val_share",),
    "accumulate": ("accumulate",),
    "seed": ("seed",),
    "patience": ("patience",),
}
"""The settings that a flag decides, by the name of its option."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of both trainings; None leaves a value to the recipe.

    Attributes:
        split: the split whose training list is used.
        name: of the training, beside others of the same stream and split.
        more_epochs: how many epochs a finished training is continued by.
        continue_from: name of the training that is continued as `name`; None continues `name` itself.
        recipe: ``tsn-ucf101``, ``tsn-hmdb51`` or ``small``; None chooses by data set.
        backbone: ``resnet18``, ``34``, ``50``, ``101``, or ``timm:NAME``.
        init: weights file to start from.
        epochs: length of the training.
        batch_size: videos a step.
        lr: largest learning rate.
        num_segments: clips of one video in a training sample, K.
        aux_weight: weight of the auxiliary loss.
        plain: train without the injection, as a stream of a plain two-stream network.
        no_flip: never mirror clips.
        val_share: share of the training list that is held out.
        accumulate: parts in which a batch is run.
        settings: further settings of the recipe by name, such as ``{"ema_decay": 0.99}``.
        seed: of weights, order and augmentation.
        patience: validations without a lower held-out loss after which the training ends.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        amp: mixed precision.
        loader_workers: processes that read; None chooses by cores.
        compile_: use ``torch.compile``.
        train_workers: least and most processes that share each batch, started by Ray Train.
        address: Ray cluster of the train workers; None is this machine.
    """

    split: str = "1"
    name: str = DEFAULT
    more_epochs: int | None = None
    continue_from: str | None = None
    recipe: str | None = None
    backbone: str | None = None
    init: Path | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    num_segments: int | None = None
    aux_weight: float | None = None
    plain: bool = False
    no_flip: bool = False
    val_share: float | None = None
    accumulate: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    patience: int | None = None
    device: str = "auto"
    amp: Amp = "auto"
    loader_workers: int | None = None
    compile_: bool = False
    train_workers: tuple[int, int] | None = None
    address: str | None = None

    @property
    def runtime(self) -> Runtime:
        """Where and how fast the training runs."""
        return Runtime(
            device=self.device, amp=self.amp, loader_workers=self.loader_workers, compile=self.compile_
        )


def train_run(
    run_path: Path,
    stream: StreamName,
    options: TrainOptions | None = None,
    on_event: Callable[[TrainEvent], None] = lambda _event: None,
    *,
    handle_signals: bool = False,
) -> TrainResult:
    """Train one stream of a run, or resume its training; a finished one is only reported.

    Args:
        run_path: the run directory, with extracted videos.
        stream: ``spatial`` or ``temporal``.
        options: see ``TrainOptions``.
        on_event: called at the start, after every step and with every notice.
        handle_signals: whether SIGTERM and SIGINT end the training after a checkpoint.

    Raises:
        ValueError: for an option, setting or split that does not exist or does not fit the others.
        StinPipeError: if the run or its data do not allow the training, or it fails.
        Interrupted: after a signal, if these are handled.
    """
    options = options or TrainOptions()
    run = open_run(run_path)
    manifest = Manifest.load(run.manifest)
    require_split(manifest, options.split)
    if options.address and not options.train_workers:
        raise ArgumentError("--address: needs --train-workers N, how many processes train there", "address")
    place = training_place(run, stream, options)
    config = place.config(training_config(stream, manifest.dataset, options))

    # torchrun starts this program several times; the first process writes for all.
    record = nullcontext()
    if is_first_process():
        record = recorded(run, f"train-{stream}", {"train": asdict(config), **asdict(options)})
    with record:
        return train_locked(
            run,
            config,
            out_dir=place.folder,
            source=place.source,
            options=options,
            on_event=on_event,
            handle_signals=handle_signals,
        )


def train_locked(
    run: RunDir,
    config: TrainConfig,
    *,
    out_dir: Path,
    source: Path | None = None,
    options: TrainOptions,
    on_event: Callable[[TrainEvent], None],
    handle_signals: bool = False,
) -> TrainResult:
    """Train a complete configuration in any folder of a run, which no other training may use meanwhile.

    Of ``options`` it takes the split and what says where and how fast to train; see ``train_run``. ``source``
    is the folder of the training that is continued, if one is.
    """
    manifest = Manifest.load(run.manifest)
    manifest.require(STORED_OF[config.stream.name])  # before the training has a folder
    is_first = is_first_process()
    if manifest.num_pending and is_first:
        message = f"{manifest.num_pending} videos are not extracted yet; training uses the ones that are"
        on_event(TrainNotice(message=message))
    if is_first and (changed := looks_changed(ListingRecord.find(run.extract))):
        message = (
            f"{counted(len(changed), 'source file')} with another size or time than at the extraction "
            f"(first: {changed[0]}); training uses the frames of then; `stin-pipe extract` compares such "
            "files, and extracts again what is another one"
        )
        on_event(TrainNotice(message=message))

    make_inside(out_dir, run.path)
    lock = out_dir / "lock.json"
    with run_lock(lock, activity="training", to_break=f"delete {lock}") if is_first else nullcontext():
        if source is not None and is_first:
            begin_continuation(source, out_dir, config, manifest)
        job: dict[str, Any] = {
            "manifest": manifest,
            "extract_dir": run.extract,
            "out_dir": out_dir,
            "split": options.split,
            "runtime": options.runtime,
            "extraction": extraction_of(run),
            "on_progress": on_event,
            "handle_signals": handle_signals,
        }
        if options.train_workers is None:
            return train_stream(config, **job)
        least, most = options.train_workers
        workers = WorkerCount(least=least, most=most)
        return train_on_ray(config, num_workers=workers, address=options.address, **job)


@dataclass(frozen=True, kw_only=True)
class TrainingPlace:
    """The folder of a training in its run.

    Attributes:
        folder: of the training.
        source: of the training that is continued there, perhaps the same; None where none is.
        more_epochs: how many epochs are added to that.
    """

    folder: Path
    source: Path | None = None
    more_epochs: int = 0

    def config(self, wanted: TrainConfig) -> TrainConfig:
        """Return the configuration of the training: the one that is wanted, or the one that is continued.

        Raises:
            StinPipeError: the training cannot be continued.
        """
        if self.source is None:
            return with_continuations(wanted, self.folder)
        return continued_config(self.source, self.folder, epochs=self.more_epochs)


def training_place(run: RunDir, stream: StreamName, options: TrainOptions) -> TrainingPlace:
    """Return where a training with these options lies, and which one it continues.

    Raises:
        ValueError: a name that no training can have; settings beside ``more_epochs``, which are kept.
    """
    try:
        folder = run.training(stream, options.split, check_name(options.name, what="--name"))
    except ValueError as error:
        raise ArgumentError(str(error), "name") from error
    if options.more_epochs is None:
        if options.continue_from is not None:
            raise ArgumentError(
                "--continue-from: needs --more-epochs N, by how much the training is continued",
                "continue_from",
            )
        return TrainingPlace(folder=folder)

    for name in ("recipe", "settings", *_SETTINGS_OF_FLAGS):
        if getattr(options, name) not in (None, False, {}):
            flag = "--set" if name == "settings" else _flag(name)
            raise ArgumentError(
                f"{flag}: a training that is continued keeps its settings; leave {flag} out, or train anew",
                name,
                "more_epochs",
            )
    source = folder
    if options.continue_from is not None:
        try:
            name = check_training_name(options.continue_from, what="--continue-from")
        except ValueError as error:
            raise ArgumentError(str(error), "continue_from") from error
        source = run.training(stream, options.split, name)
    return TrainingPlace(folder=folder, source=source, more_epochs=options.more_epochs)


def training_config(stream: StreamName, dataset: str, options: TrainOptions) -> TrainConfig:
    """Return the complete configuration of a training with these options.

    Raises:
        ValueError: for a recipe, backbone, setting or value that does not exist, or one given twice.
    """
    _require_one_source(options)
    check_backbone_name(options.backbone or "resnet18")
    recipe = resolve_recipe(options.recipe or RECIPE_OF_DATASET.get(dataset, "small"), stream)
    return override(
        override(recipe, **options.settings),
        backbone=options.backbone,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        num_segments=options.num_segments,
        aux_weight=options.aux_weight,
        val_share=options.val_share,
        accumulate=options.accumulate,
        seed=options.seed,
        patience=options.patience,
        init=str(options.init.absolute()) if options.init else None,
        flip=False if options.no_flip else None,
        injection=False if options.plain else None,
    )


def _require_one_source(options: TrainOptions) -> None:
    """Refuse a setting that both a flag and `--set` give: one of them would be dropped without a word."""
    for name, settings in _SETTINGS_OF_FLAGS.items():
        if getattr(options, name) in (None, False):
            continue
        for setting in settings:
            if setting in options.settings:
                raise ArgumentError(
                    f"{_flag(name)} and --set {setting} decide the same; give one of them", name, "settings"
                )


def _flag(name: str) -> str:
    return "--segments" if name == "num_segments" else "--" + name.replace("_", "-")


def require_split(manifest: Manifest, split: str) -> None:
    """Refuse a split that the run does not have.

    Raises:
        ValueError: names the splits it has.
    """
    if split not in manifest.split_names:
        names = ", ".join(manifest.split_names)
        raise ArgumentError(f"--split: {split!r} is not in this run; its splits are: {names}", "split")


def extraction_of(run: RunDir) -> dict[str, Any]:
    """Return how the run's frames and flow were made; model files keep it."""
    return joined_params([Plan.load(path) for path in plan_paths(run.extract)]).as_record()
