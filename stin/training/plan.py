"""The plan of a training: its lists, its length and its model's description, fixed before the first step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stin_pipe.stin.clips.mirrored import mirrored_pairs
from stin_pipe.stin.network.model_file import ModelInfo
from stin_pipe.stin.shards.errors import StinPipeError, and_more
from stin_pipe.stin.shards.schema import STORED_OF, Manifest
from stin_pipe.stin.training.batches import steps_per_epoch
from stin_pipe.stin.training.config import TrainConfig, fit_to_manifest
from stin_pipe.stin.training.holdout import TrainingLists, divide_training_list
from stin_pipe.stin.training.optim import Phase, continued_rate


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What one training works on and for how long."""

    config: TrainConfig
    lists: TrainingLists
    info: ModelInfo
    out_dir: Path
    split: str
    batch_size: int
    per_epoch: int
    phases: tuple[Phase, ...]
    """The training as it was planned, then its continuations."""

    @property
    def total_steps(self) -> int:
        """Steps at the end of the last phase; patience may end it earlier."""
        return self.phases[-1].first_step + self.phases[-1].num_steps

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, 0-based."""
        return continued_rate(self.config.optim, self.phases, step=step)


def plan_training(
    config: TrainConfig, *, manifest: Manifest, out_dir: Path, split: str, extraction: Mapping[str, Any]
) -> TrainingPlan:
    """Fit a configuration to the videos of a run.

    Raises:
        StinPipeError: if the split is unknown, or has too few videos or classes to train on; if nothing is
            held out for patience to watch.
    """
    config = fit_to_manifest(config, manifest)
    stored = STORED_OF[config.stream.name]
    lists = divide_training_list(manifest, split=split, share=config.val_share, stream=stored)
    if config.patience and not lists.held_out:
        raise StinPipeError(
            f"--patience {config.patience}: it watches the loss on held-out videos, but nothing is held out "
            f"of split {split}, because no class has two recordings; leave --patience out"
        )

    # A list shorter than a batch is one batch.
    batch_size = min(config.optim.batch_size, len(lists.train))
    per_epoch = steps_per_epoch(num_samples=len(lists.train), batch_size=batch_size)
    length = config.optim.length * (1 if config.optim.unit == "steps" else per_epoch)
    phases = [Phase(first_step=0, num_steps=length)]
    phases += [
        Phase(first_step=item.from_step, num_steps=item.epochs * per_epoch) for item in config.continued
    ]

    info = ModelInfo(
        stream=config.stream,
        classes=manifest.classes,
        num_segments=config.num_segments,
        crop_px=config.augment.crop_px,
        flip=config.augment.flip,
        bound_px=manifest.bound_px,
        training={"recipe": config.recipe, "split": split, "seed": config.seed},
        extraction=dict(extraction),
    )

    return TrainingPlan(
        config=config,
        lists=lists,
        info=info,
        out_dir=out_dir,
        split=split,
        batch_size=batch_size,
        per_epoch=per_epoch,
        phases=tuple(phases),
    )


def notify_of_lists(plan: TrainingPlan, notify: Callable[[str], None]) -> None:
    """Pass on what a person should know of the split's lists before the training."""
    if plan.lists.unseen_classes:
        names = ", ".join(plan.lists.unseen_classes[:5])
        notify(
            f"split {plan.split}: {len(plan.lists.unseen_classes)} classes of the test list have no training "
            f"video, so all their test videos will be scored wrong: {names}"
        )
    if plan.config.augment.flip and (pairs := mirrored_pairs(plan.info.classes)):
        names = and_more([" and ".join(pair) for pair in pairs], 3)
        notify(
            "half of the clips are mirrored in training, but by their names these classes are mirror images "
            f"of each other: {names}; their mirrored clips get the wrong label, so train with --no-flip"
        )
    if plan.config.val_share > 0 and not plan.lists.held_out:
        notify("no class has two recordings, so nothing is held out and nothing is validated")
