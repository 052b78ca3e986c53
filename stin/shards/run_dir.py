"""Where each stage keeps its files in a run directory."""

from dataclasses import dataclass
from pathlib import Path


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

    def training(self, stream: str, split: str) -> Path:
        """Folder of one training, `train-spatial/split1`."""
        return self.path / f"train-{stream}" / f"split{split}"

    def fusion(self, split: str) -> Path:
        """Folder of one evaluation, `fuse-eval/split1`."""
        return self.path / "fuse-eval" / f"split{split}"
