"""Start a stream from existing weights: torchvision's files, or a finished model of this program.

Nothing is unpickled: ``.pth`` and ``.pt`` files load with ``weights_only=True``, everything else is
safetensors.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stin_pipe.stin.network.streams import Stream
from stin_pipe.stin.shards.errors import StinPipeError, and_more, first_line

MAX_LISTED_MISFITS = 5
_DAMAGE = (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the named tensors of a weights file.

    Raises:
        StinPipeError: if the file is missing or damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise StinPipeError(
            f"{path}: no such weights file; give the path of a .pth, .pt or .safetensors file"
        )
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            _require_unpacked(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
    ) as error:
        raise StinPipeError(f"{path}: not a readable weights file: {first_line(error)}") from error
    except Exception as error:  # torch's own unpickling error has no public name across versions
        raise StinPipeError(
            f"{path}: not a weights file, or it holds more than tensors, and is not loaded for safety; "
            "give a state_dict saved as .pth or .safetensors"
        ) from error

    # Training programs often wrap the state_dict, and DataParallel prefixes its names.
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise StinPipeError(f"{path}: holds no named tensors; save a state_dict")

    tensors = {str(name).removeprefix("module."): value for name, value in content.items()}
    others = [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise StinPipeError(f"{path}: {others[0]!r} is not a tensor; save a state_dict")
    for name, value in tensors.items():
        if not _is_stored(value):
            raise StinPipeError(f"{path}: {name!r} declares more numbers than are stored; save a state_dict")
    return tensors


def _require_unpacked(path: Path) -> None:
    """Refuse a .pth file, which is a zip, that grows as it is unpacked; torch.save compresses nothing.

    Raises:
        ValueError: says how much it would unpack to.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        num_bytes = sum(member.file_size for member in archive.infolist())
    if num_bytes > path.stat().st_size:
        raise ValueError(f"it unpacks to {num_bytes} bytes, more than it has; save it with torch.save")


def _is_stored(value: torch.Tensor) -> bool:
    """Tell whether each number of a tensor has bytes of its own; a view may repeat one without end."""
    if value.layout != torch.strided:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def start_from(stream: Stream, path: Path) -> tuple[str, ...]:
    """Load weights into a stream, as far as they belong to it.

    A backbone's file (torchvision's names) fills the backbone; its ``fc`` is left out. A finished model of
    this program also fills the modules; heads for another number of classes keep their random weights. If the
    first layer takes another number of channels, it starts from the mean over the file's channels
    (cross-modality initialisation).

    Returns:
        Notices of what was left out or converted.

    Raises:
        StinPipeError: if the backbone does not fit; names the first misfits.

    Source: cross-modality initialisation: Wang et al., Temporal Segment Networks, ECCV 2016, section 3.2.
    """
    tensors = read_tensors(path)
    target = stream.state_dict()
    # Without a `backbone.` it is a plain network's file; its final layer is for other classes.
    if not any(name.startswith("backbone.") for name in tensors):
        prefix = (
            "backbone.body." if any(name.startswith("backbone.body.") for name in target) else "backbone."
        )
        final = ("fc.", "classifier.", "head.")
        tensors = {prefix + name: value for name, value in tensors.items() if not name.startswith(final)}

    notices = []
    first = _first_convolution(target)
    if first in tensors and tensors[first].shape != target[first].shape:
        old, new = tensors[first], target[first]
        if old.ndim == 4 and old.shape[0] == new.shape[0] and old.shape[2:] == new.shape[2:]:
            tensors[first] = cross_modality(old, num_channels=new.shape[1])
            notices.append(
                f"the first layer of {new.shape[1]} channels starts from the mean over {old.shape[1]}"
            )

    misfits = _misfits(tensors, target)
    if misfits:
        shown = and_more(misfits, MAX_LISTED_MISFITS, separator="; ")
        raise StinPipeError(
            f"{path}: does not fit backbone {stream.config.backbone}: {shown}; "
            "give weights of that backbone, or another --backbone"
        )

    # Heads may have another shape, since they are for other classes; then they stay as they are.
    fitting = {
        name: value for name, value in tensors.items() if name in target and value.shape == target[name].shape
    }
    fresh = sorted({name.split(".")[0] for name in target if name not in fitting and not _is_counter(name)})
    stream.load_state_dict(fitting, strict=False)
    if fresh:
        notices.append(f"not in {path.name}, so initialised at random: {', '.join(fresh)}")
    return tuple(notices)


def cross_modality(weight_OCHW: torch.Tensor, *, num_channels: int) -> torch.Tensor:
    """Return the mean over the input channels, repeated ``num_channels`` times."""
    return weight_OCHW.mean(1, keepdim=True).repeat(1, num_channels, 1, 1)


def _misfits(given: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> list[str]:
    lines = []
    for name, wanted in target.items():
        if not name.startswith("backbone.") or _is_counter(name):
            continue
        if name not in given:
            lines.append(f"{name} {tuple(wanted.shape)} is missing")
        elif given[name].shape != wanted.shape:
            lines.append(f"{name} is {tuple(given[name].shape)}, wanted {tuple(wanted.shape)}")
    lines += [
        f"{name} is not part of it" for name in given if name.startswith("backbone.") and name not in target
    ]
    return lines


def _first_convolution(target: Mapping[str, torch.Tensor]) -> str:
    return next(name for name, value in target.items() if value.ndim == 4)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
