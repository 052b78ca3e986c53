"""Open parts of an HDF5 file that a stranger may have made.

HDF5 follows links into other files, maps data sets onto other files, takes memory by what a header declares,
and loads filters by name. Here every link, kind, size and filter is looked at before anything is read, and
only what our writer makes passes.
"""

import math
from typing import Any

import h5py
import numpy as np
from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]

from stin_pipe.stin.shards.errors import ShardError

MAX_ATTRIBUTE_BYTES = 1 << 20
MAX_ATTRIBUTES = 64
MAX_CHUNK_BYTES = 64 << 20

_LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link into another file"}
_PLAIN_TYPES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)


def open_group(parent: Any, name: str) -> h5py.Group:
    """Open a group that lies in `parent` itself.

    Raises:
        ShardError: it is missing, a link, or no group.
    """
    group = _member(parent, name)
    if not isinstance(group, h5py.Group):
        raise ShardError(f"{name!r} is not a group")
    return group


def open_table(parent: Any, name: str, dtype: Any, *, length: int | None = None) -> h5py.Dataset:
    """Open a data set of one dimension whose bytes lie in the file itself.

    Args:
        parent: its group.
        name: its name.
        dtype: of its numbers.
        length: how many there must be; None for any number.

    Raises:
        ShardError: it is missing or a link; has another type, shape, length or filter; lies in other files;
            or declares more than is stored.
    """
    table = _member(parent, name)
    if not isinstance(table, h5py.Dataset):
        raise ShardError(f"{name!r} is not a data set")
    made = table.id.get_create_plist()
    if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
        raise ShardError(f"the data of {name!r} lie in other files")
    if table.dtype != dtype:
        raise ShardError(f"{name!r} must hold {np.dtype(dtype)}, got {table.dtype}")
    if table.ndim != 1 or (length is not None and table.shape != (length,)):
        wanted = "one dimension" if length is None else f"{length} entries"
        raise ShardError(f"{name!r} must have {wanted}, got the shape {table.shape}")
    for index in range(made.get_nfilters()):
        # A filter that unpacks could make any amount of a few bytes; ours only checks.
        if made.get_filter(index)[0] != h5py.h5z.FILTER_FLETCHER32:
            raise ShardError(f"{name!r} has a filter that no shard has")

    item_bytes, file_bytes = table.dtype.itemsize, table.file.id.get_filesize()
    if made.get_layout() == h5py.h5d.CHUNKED and math.prod(made.get_chunk()) * item_bytes > MAX_CHUNK_BYTES:
        raise ShardError(f"{name!r} has chunks of more than {MAX_CHUNK_BYTES >> 20} MiB")
    # What was never written would read as zeros, of any length; overlapping chunks could be read many times.
    if not table.size * item_bytes <= table.id.get_storage_size() <= file_bytes:
        raise ShardError(f"{name!r} declares {table.size * item_bytes} bytes, but fewer are stored")
    return table


def read_attributes(owner: h5py.Group) -> dict[str, Any]:
    """Return the attributes of a group as plain numbers and texts.

    Raises:
        ShardError: one is a table, a compound or anything else but a number or a text, or too long.
    """
    num_attributes = h5py.h5a.get_num_attrs(owner.id)
    if num_attributes > MAX_ATTRIBUTES:
        raise ShardError(f"there are {num_attributes} attributes, more than {MAX_ATTRIBUTES}")

    values: dict[str, Any] = {}
    for index in range(num_attributes):
        attribute = h5py.h5a.open(owner.id, index=index)
        name = attribute.name.decode("utf-8", "surrogateescape")
        is_single = attribute.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
        if not is_single or attribute.get_type().get_class() not in _PLAIN_TYPES:
            raise ShardError(f"the attribute {name!r} must be one number or one text")
        if attribute.get_storage_size() > MAX_ATTRIBUTE_BYTES:
            raise ShardError(f"the attribute {name!r} is longer than {MAX_ATTRIBUTE_BYTES >> 20} MiB")
        stored = owner.attrs[name]
        value = stored.item() if isinstance(stored, np.generic) else stored
        if not isinstance(value, (int, float, str)):
            raise ShardError(f"the attribute {name!r} must be one number or one text")
        values[name] = value
    return values


def _member(parent: Any, name: str) -> Any:
    """Open what `parent` holds under a name, following no link."""
    links = parent.id.links
    if not links.exists(name.encode()):
        raise ShardError(f"{name!r} is missing")
    kind = links.get_info(name.encode()).type
    if kind != h5l.TYPE_HARD:
        raise ShardError(f"{name!r} is {_LINKS.get(kind, 'a link of an unknown kind')}")
    return parent[name]
