"""The scores of one stream, or of a fusion, on a list of videos, and how they are kept in a file.

A score file is a ``.npz`` of plain arrays (no objects, so nothing is unpickled); a name ending in ``.json``
gives the same as readable text.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np

from stin_pipe.stin.network.auxiliary import with_auxiliary
from stin_pipe.stin.shards.bounded import FileKind, json_object, open_regular, read_bytes
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes, publish_json

SCORES_FORMAT = 1
SCORES = FileKind(name="score file", max_bytes=2 << 30, next_step="give another file, or score again")
Kind = Literal["logits", "probabilities"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one stream, or the fusion of several, says of N videos.

    Attributes:
        ids: video ids, each once.
        labels: int64 (N,).
        class_names: names by label, C of them.
        scores: float32 (N, C), the highest wins; of a stream, main plus the auxiliary logits' share.
        kind: what the scores are: ``logits``, or the ``probabilities`` of a fusion after softmax.
        main_logits: float32 (N, C) of the main head alone, where a stream of ours made the scores.
        aux_logits: float32 (N, C) of the auxiliary head; None in a plain stream.
        stream: ``spatial``, ``temporal``, ``fused``, or the name of another program's stream.
        protocol: segments, crops and what else the numbers depend on.
        model_digest: sha256 of the model file.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    scores: np.ndarray
    kind: Kind = "logits"
    main_logits: np.ndarray | None = None
    aux_logits: np.ndarray | None = None
    stream: str
    protocol: Mapping[str, Any] = field(default_factory=dict)
    model_digest: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.class_names))
        arrays = {"scores": self.scores, "main_logits": self.main_logits, "aux_logits": self.aux_logits}
        for name, array in arrays.items():
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} must have shape {shape} (videos, classes), got {array.shape}")
        if self.labels.shape != shape[:1]:
            raise ValueError(f"labels must have shape {shape[:1]}, got {self.labels.shape}")

    def log_probabilities(self) -> np.ndarray:
        """Return the logarithm of each class's probability: float64 (N, C)."""
        if self.kind == "logits":
            return log_softmax(self.scores)
        # A probability that underflowed to 0 would be infinitely wrong.
        return np.log(np.maximum(self.scores.astype(np.float64), np.finfo(np.float32).tiny))

    def with_aux(self, share: float) -> "Scores":
        """Return the same with another share of the auxiliary logits; 0 leaves them out.

        Raises:
            StinPipeError: for a share that would overflow every score.
        """
        main = self.scores if self.main_logits is None else self.main_logits
        return replace(self, scores=with_auxiliary(main, self.aux_logits, share=share))

    def save(self, path: Path) -> None:
        """Write the scores as .npz or .json, by the suffix of the path."""
        about = {
            "format": SCORES_FORMAT,
            "kind": self.kind,
            "ids": list(self.ids),
            "class_names": list(self.class_names),
            "stream": self.stream,
            "protocol": dict(self.protocol),
            "model_digest": self.model_digest,
        }
        # The array is named after its kind, so that numpy alone shows what a file holds.
        arrays = {"labels": self.labels, self.kind: self.scores}
        arrays |= {} if self.main_logits is None else {"main_logits": self.main_logits}
        arrays |= {} if self.aux_logits is None else {"aux_logits": self.aux_logits}

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
                value = json_object(read_bytes(path, SCORES))
            else:
                arrays = read_arrays(path)
                value = {**json_object(arrays.pop("about").tobytes()), **arrays}
            if value["format"] != SCORES_FORMAT:
                raise ValueError(f"format {value['format']}, this program reads {SCORES_FORMAT}")

            # 0.1.0 named every array "logits"; a fusion after softmax is known by its protocol there.
            name = value.get("kind", "logits")
            if name not in get_args(Kind):
                raise ValueError(f"kind {name!r}, this program reads {' and '.join(get_args(Kind))}")
            is_old_fusion = "kind" not in value and value["protocol"].get("when") == "after_softmax"

            main, aux = (None if is_old_fusion else value.get(part) for part in ("main_logits", "aux_logits"))
            return Scores(
                ids=tuple(value["ids"]),
                labels=np.asarray(value["labels"], np.int64),
                class_names=tuple(value["class_names"]),
                scores=np.asarray(value[name], np.float32),
                kind="probabilities" if name == "probabilities" or is_old_fusion else "logits",
                main_logits=None if main is None else np.asarray(main, np.float32),
                aux_logits=None if aux is None else np.asarray(aux, np.float32),
                stream=value["stream"],
                protocol=value["protocol"],
                model_digest=value["model_digest"],
            )
        except Exception as error:  # zip, numpy and json each report damage in their own ways
            raise StinPipeError(
                f"{path}: not a readable score file: {error}; delete it and score again"
            ) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file, unless it declares more than it holds.

    Raises:
        StinPipeError: it is no regular file, or too large.
        ValueError: an array is pickled, or its shape is not that of its bytes; or all of them together would
            not fit into the memory that scores may take.
    """
    with open_regular(path, SCORES) as file:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > SCORES.max_bytes:
                raise ValueError(f"it unpacks to more than {SCORES.max_bytes >> 20} MiB")
            for member in members:
                with archive.open(member) as stream:
                    _require_declared_bytes(stream, member)
        file.seek(0)
        with np.load(file, allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files}


def _require_declared_bytes(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Refuse a header that makes numpy allocate another amount of memory than the file holds."""
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds pickled objects, which run code when they are opened")
    declared, stored = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if declared != stored:
        raise ValueError(f"{member.filename} declares {declared} bytes, but holds {stored}")


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Return the probabilities of each row."""
    shifted = np.exp(logits_NC - logits_NC.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def log_softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Return the log probabilities of each row: float64 (N, C)."""
    shifted = logits_NC.astype(np.float64) - logits_NC.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
