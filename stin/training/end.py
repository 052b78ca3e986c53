"""What a training leaves behind: its best weights so far, and at the end its model and its result."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

from stin_pipe.stin.network.model_file import MODEL_FILE, RESULT_FILE, save_model
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes, publish_json
from stin_pipe.stin.training.learner import Learner
from stin_pipe.stin.training.plan import TrainingPlan
from stin_pipe.stin.training.report import TrainResult
from stin_pipe.stin.training.state import BEST_FILE, LoopState


def export_weights(
    plan: TrainingPlan, learner: Learner, path: Path, *, step: int, top1: float | None
) -> None:
    """Write the current weights as a model file."""
    training = {**plan.info.training, "step": step, "val_top1": top1}
    save_model(path, weights=learner.final_weights(), info=replace(plan.info, training=training))


def finish_training(
    plan: TrainingPlan, learner: Learner, state: LoopState, *, notices: list[str]
) -> TrainResult:
    """Write the model and, last of all, the result that marks the training as finished.

    Raises:
        StinPipeError: if the best weights shall be the model and their file is missing.
    """
    validated = state.best_top1 >= 0
    path = plan.out_dir / MODEL_FILE

    takes_best = validated and (plan.config.select == "best" or plan.config.patience > 0)
    if takes_best:
        best = plan.out_dir / BEST_FILE
        if not best.exists():
            raise StinPipeError(
                f"{best} is missing; delete {plan.out_dir} to train again, or select the last weights"
            )
        publish_bytes(path, best.read_bytes())
    else:
        export_weights(plan, learner, path, step=state.step, top1=state.last_top1 if validated else None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    result = TrainResult(
        stream=plan.config.stream_name,
        recipe=plan.config.recipe,
        split=plan.split,
        epochs=-(-state.step // plan.per_epoch),
        steps=state.step,
        seconds=round(state.seconds, 3),
        samples_per_s=round(state.step * plan.batch_size / max(state.seconds, 1e-9), 3),
        best_val_top1=state.best_top1 if validated else None,
        last_val_top1=state.last_top1 if validated else None,
        checkpoint=str(path),
        num_train=len(plan.lists.train),
        num_held_out=len(plan.lists.held_out),
        num_parameters=learner.num_parameters,
        flops_per_sample=learner.flops_per_sample,
        num_repeated_fields=state.num_repeated,
        notices=tuple(notices),
        model_sha256=digest,
        device=str(learner.device),
        model_step=state.best_step if takes_best else state.step,
        stopped_early=state.step < plan.total_steps,
        continued=tuple(asdict(item) for item in plan.config.continued),
    )
    # Its presence means that everything else is complete.
    publish_json(plan.out_dir / RESULT_FILE, result.to_json())
    return result
