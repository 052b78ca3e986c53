"""Where each stage keeps its files in a run directory."""

import re
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.names import require_name

DEFAULT = "default"
"""Name of the training or evaluation whose folder has no name, `train-spatial/split1`."""
ABLATION = "ablate"
SCORES_FILE = "test.npz"
"""The scores of a training's split by its own model, in the training's folder."""
HELD_OUT_FILE = "held-out.npz"
"""Likewise of the held-out part of the training list."""
MAX_NAME = 100
"""Characters of the name of a training or an evaluation."""
_KIND = FileKind(name="description of a training")
_TAKEN = (ABLATION, "all.json", "report.html")


@dataclass(frozen=True, kw_only=True)
class RunDir:
    """Paths of one run."""

    path: Path

    @property
    def extract(self) -> Path:
        """Folder of the extract stage."""
        return self.path / "extract"

    @property
    def manifest(self) -> Path:
        """The manifest that later stages read."""
        return self.extract / "manifest.json"

    def training(self, stream: str, split: str, name: str = DEFAULT) -> Path:
        """Folder of one training.

        ``train-spatial/split1``, with a name ``train-spatial/NAME/split1``, or one of an ablation, which is
        called by its folder: ``ablate/VARIANT/seedN``.
        """
        if name.startswith(f"{ABLATION}/"):
            variant, _, seed = name.removeprefix(f"{ABLATION}/").partition("/")
            folder = self.path / ABLATION / self._part(variant)
            return ablation_training(folder, seed=self._part(seed), split=self._part(split))
        return self._of_split(self.path / f"train-{stream}", split, name)

    def fusion(self, split: str, name: str = DEFAULT) -> Path:
        """Folder of one evaluation, `fuse-eval/split1`, with a name `fuse-eval/NAME/split1`."""
        return self._of_split(self.path / "fuse-eval", split, name)

    def _of_split(self, folder: Path, split: str, name: str) -> Path:
        named = folder if name == DEFAULT else folder / self._part(name)
        return named / f"split{self._part(split)}"

    def _part(self, text: str) -> str:
        """Return one part of a path; splits and names come from lists and records that strangers write."""
        try:
            return require_name(text, "a name in a run")
        except ValueError as error:
            raise StinPipeError(f"{self.path}: {error}") from error

    def training_names(self, stream: str, split: str) -> list[str]:
        """Return the names of the trainings of a stream that have a folder: the default one, named ones, and
        those of ablations."""
        folder = self.path / f"train-{stream}"
        names = [DEFAULT] if self.training(stream, split).is_dir() else []
        names += sorted(
            path.parent.name for path in folder.glob(f"*/{escape(f'split{split}')}") if path.is_dir()
        )

        seeds = {
            f"{ABLATION}/{path.relative_to(self.path / ABLATION).parts[0]}/{path.name}"
            for pattern in ("*/seed*", f"*/{escape(f'split{split}')}/seed*")
            for path in (self.path / ABLATION).glob(pattern)
        }
        for name in sorted(seeds):
            config = stored_config(self.training(stream, split, name))
            if config.get("split") == split and stream_of(config) == stream:
                names.append(name)
        return names

    def evaluation_names(self, split: str) -> list[str]:
        """Return the names of the evaluations that have a folder, the default one first."""
        names = [DEFAULT] if self.fusion(split).is_dir() else []
        found = (self.path / "fuse-eval").glob(f"*/{escape(f'split{split}')}")
        return names + sorted(path.parent.name for path in found if path.is_dir())


def check_name(name: str, *, what: str) -> str:
    """Return a name that people may give to a training or an evaluation; it names a folder.

    Raises:
        ValueError: says which names there can be.
    """
    if (
        not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", name)
        or len(name) > MAX_NAME
        or name.startswith("split")
        or name in _TAKEN
    ):
        raise ValueError(
            f"{what} must be up to {MAX_NAME} letters, digits and . _ + -, and begin with a letter, a digit "
            f"or _, but not with 'split'; got {name!r}"
        )
    return name


def check_training_name(name: str, *, what: str) -> str:
    """Return the name of a training that exists or will: one that people give, or `ablate/VARIANT/seedN`.

    Raises:
        ValueError: says which names there can be.
    """
    if not name.startswith(f"{ABLATION}/"):
        return check_name(name, what=what)
    parts = name.split("/")
    if len(parts) != 3 or not re.fullmatch(r"seed[0-9]+", parts[2]) or parts[1].strip(".") == "":
        raise ValueError(f"{what}: a training of an ablation is called ablate/VARIANT/seedN, got {name!r}")
    return name


def ablation_training(variant_dir: Path, *, seed: str, split: str) -> Path:
    """Return ``seed<N>`` for split 1, ``split<S>/seed<N>`` for others."""
    plain = variant_dir / seed
    # Earlier versions trained every split in the plain folder; its configuration says which.
    plain_split = stored_config(plain).get("split", "1")
    return plain if plain_split == split else variant_dir / f"split{split}" / seed


def stored_config(training: Path) -> dict[str, Any]:
    """Return a training's config.json; an empty object if it is missing or damaged."""
    return _read(training / "config.json")


def is_being_continued(training: Path) -> bool:
    """Tell whether a finished training has been continued, and the continuation has not come to its end."""
    wanted, done = stored_config(training).get("config"), _read(training / "result.json")
    if not isinstance(wanted, dict) or not done:
        return False  # not finished, or damaged: whoever opens the training says so
    return wanted.get("continued", []) != done.get("continued", [])


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, _KIND)
    except (FileNotFoundError, UnreadableFileError):
        return {}


def stream_of(config: dict[str, Any]) -> str | None:
    """Return the stream that a training with this config.json trains; None if it does not say."""
    try:
        return config["config"]["stream"]["name"]
    except (KeyError, TypeError):
        return None
