"""The scores of one stream on a list of videos, and their life as a file.

A score file is a ``.npz`` of plain arrays (no objects, so nothing is unpickled); a name ending in ``.json``
gives the same as readable text.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes, publish_json

SCORES_FORMAT = 1
MAX_AUX_SHARE = 1e6
"""Far beyond any use, and far from what overflows."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one stream says of N videos, before softmax.

    Attributes:
        ids: video ids, each once.
        labels: int64 (N,).
        class_names: names by label, C of them.
        logits: float32 (N, C), the stream's score: main plus the auxiliary logits' share.
        main_logits: float32 (N, C).
        aux_logits: float32 (N, C), or None in a plain stream.
        stream: ``spatial``, ``temporal``, ``fused``, or the name of another program's stream.
        protocol: segments, crops and what else the numbers depend on.
        model_digest: sha256 of the model file.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    logits: np.ndarray
    main_logits: np.ndarray
    aux_logits: np.ndarray | None
    stream: str
    protocol: Mapping[str, Any] = field(default_factory=dict)
    model_digest: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.class_names))
        arrays = {"logits": self.logits, "main_logits": self.main_logits, "aux_logits": self.aux_logits}
        for name, array in arrays.items():
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} must have shape {shape} (videos, classes), got {array.shape}")
        if self.labels.shape != shape[:1]:
            raise ValueError(f"labels must have shape {shape[:1]}, got {self.labels.shape}")

    def with_aux(self, share: float) -> "Scores":
        """Return the same with another share of the auxiliary logits; 0 leaves them out.

        Raises:
            StinPipeError: for a share that no score survives.
        """
        if not abs(share) <= MAX_AUX_SHARE:
            raise StinPipeError(
                f"the auxiliary scores' share (--aux) must be a number up to {MAX_AUX_SHARE:g}, got {share:g}"
            )
        if self.aux_logits is None:
            return self
        return replace(self, logits=self.main_logits + np.float32(share) * self.aux_logits)

    def save(self, path: Path) -> None:
        """Publish the scores whole, as .npz or .json by the path's suffix."""
        about = {
            "format": SCORES_FORMAT,
            "ids": list(self.ids),
            "class_names": list(self.class_names),
            "stream": self.stream,
            "protocol": dict(self.protocol),
            "model_digest": self.model_digest,
        }
        arrays = {"labels": self.labels, "logits": self.logits, "main_logits": self.main_logits}
        if self.aux_logits is not None:
            arrays["aux_logits"] = self.aux_logits
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            publish_json(path, {**about, **{name: array.tolist() for name, array in arrays.items()}})
            return
        buffer = io.BytesIO()
        # Names travel as JSON bytes: numpy's text arrays pad every name to the longest one.
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        np.savez(buffer, about=text, **arrays)  # pyright: ignore[reportArgumentType]
        publish_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Scores":
        """Read scores back.

        Raises:
            StinPipeError: if the file is missing, damaged, or no score file of this version.
        """
        if not path.is_file():
            raise StinPipeError(f"{path}: no such score file; run fuse-eval first, or give another path")
        try:
            if path.suffix == ".json":
                value = json.loads(path.read_text())
            else:
                with np.load(path, allow_pickle=False) as opened:
                    arrays = {name: opened[name] for name in opened.files}
                value = {**json.loads(arrays.pop("about").tobytes()), **arrays}
            if value["format"] != SCORES_FORMAT:
                raise ValueError(f"format {value['format']}, this program reads {SCORES_FORMAT}")
            aux = value.get("aux_logits")
            return cls(
                ids=tuple(value["ids"]),
                labels=np.asarray(value["labels"], np.int64),
                class_names=tuple(value["class_names"]),
                logits=np.asarray(value["logits"], np.float32),
                main_logits=np.asarray(value["main_logits"], np.float32),
                aux_logits=None if aux is None else np.asarray(aux, np.float32),
                stream=value["stream"],
                protocol=value["protocol"],
                model_digest=value["model_digest"],
            )
        except Exception as error:  # zip, numpy and json each have their own ways to find a file damaged
            raise StinPipeError(
                f"{path}: not a readable score file: {error}; delete it and score again"
            ) from error
