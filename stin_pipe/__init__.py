"""From folders of videos to a trained two-stream action recogniser.

The stages of the command line as functions, and what they leave behind as objects:

    import stin_pipe

    stin_pipe.extract("runs/mine", "videos")
    stin_pipe.train("runs/mine", "spatial", recipe="small")
    stin_pipe.train("runs/mine", "temporal", recipe="small")
    stin_pipe.evaluate("runs/mine")

    model = stin_pipe.load("runs/mine")
    model.predict("clip.mp4")

Names are loaded when they are first used, so that ``import stin_pipe`` costs nothing.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stin_pipe.pipeline.flow import tvl1
    from stin_pipe.pipeline.flow.colour import flow_to_colour
    from stin_pipe.runs import Run, open_run
    from stin_pipe.stages import evaluate, extract, train
    from stin_pipe.stin.clips.shard_dataset import ShardDataset
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.workflows.prediction.model import Model
    from stin_pipe.workflows.prediction.model import load_model as load
    from stin_pipe.workflows.prediction.prediction import Prediction

__all__ = [
    "Model",
    "Prediction",
    "Run",
    "ShardDataset",
    "StinPipeError",
    "evaluate",
    "extract",
    "flow_to_colour",
    "load",
    "open_run",
    "train",
    "tvl1",
]

# public name -> the module that has it, and its name there
_HOMES = {
    "Model": ("workflows.prediction.model", "Model"),
    "Prediction": ("workflows.prediction.prediction", "Prediction"),
    "Run": ("runs", "Run"),
    "ShardDataset": ("stin.clips.shard_dataset", "ShardDataset"),
    "StinPipeError": ("stin.shards.errors", "StinPipeError"),
    "evaluate": ("stages", "evaluate"),
    "extract": ("stages", "extract"),
    "flow_to_colour": ("pipeline.flow.colour", "flow_to_colour"),
    "load": ("workflows.prediction.model", "load_model"),
    "open_run": ("runs", "open_run"),
    "train": ("stages", "train"),
    "tvl1": ("pipeline.flow.api", "tvl1"),
}


def __getattr__(name: str) -> Any:
    """Load a public name, or the version, when it is first used."""
    if name == "__version__":
        return metadata.version("stin-pipe")
    if name not in _HOMES:
        raise AttributeError(f"module 'stin_pipe' has no attribute {name!r}")

    module, home_name = _HOMES[name]
    return getattr(import_module(f"stin_pipe.{module}"), home_name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
