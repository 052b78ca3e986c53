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

_MODULES = {
    "stin_pipe.pipeline.flow": ("tvl1",),
    "stin_pipe.pipeline.flow.colour": ("flow_to_colour",),
    "stin_pipe.runs": ("Run", "open_run"),
    "stin_pipe.stages": ("evaluate", "extract", "train"),
    "stin_pipe.stin.clips.shard_dataset": ("ShardDataset",),
    "stin_pipe.stin.shards.errors": ("StinPipeError",),
    "stin_pipe.workflows.prediction.model": ("Model", "load_model"),
    "stin_pipe.workflows.prediction.prediction": ("Prediction",),
}
_RENAMED = {"load": "load_model"}


def __getattr__(name: str) -> Any:
    """Load a public name, or the version, when it is first used."""
    if name == "__version__":
        return metadata.version("stin-pipe")

    home_name = _RENAMED.get(name, name)
    for module, names in _MODULES.items():
        if home_name in names and name in __all__:
            return getattr(import_module(module), home_name)
    raise AttributeError(f"module 'stin_pipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
