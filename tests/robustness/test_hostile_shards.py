"""Shards that a stranger made, with every checksum right: refused before anything is opened or allocated."""

import os
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stin_pipe.stin.shards.codec import decode_field, decode_rgb, encode_image, image_size
from stin_pipe.stin.shards.errors import ShardError
from stin_pipe.stin.shards.reader import ShardFile, content_digest
from stin_pipe.stin.shards.schema import attributes_crc
from stin_pipe.stin.shards.writer import ShardWriter, item_crc

NUM_FRAMES = 4
GROUP = "videos/000000"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "00000.h5"
    attributes = {"flow_zero": 128.0, "flow_scale": 0.15, "fingerprint": "f"}
    with ShardWriter(path, attributes=attributes) as writer:
        video = writer.begin_video("class/a.avi")
        for value in range(NUM_FRAMES):
            video.append_frame(encode_image(np.full((32, 32, 3), value, np.uint8)))
        for value in range(NUM_FRAMES - 1):
            video.append_field(encode_image(np.full((64, 32), value, np.uint8)))
        about = {"label": 0, "class_name": "class", "height": 32, "width": 32, "fps": 25.0}
        video.finish(**about, source_sha256="s", notes={})
    return path


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Let an allocation of gigabytes fail at once, rather than pass because nothing touches it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def read_all(path: Path) -> None:
    """What verify and every reader take from a shard."""
    shard = ShardFile(path)
    try:
        for name in shard.group_names():
            content_digest(shard, name)
            decode_rgb(shard.read_bytes(name, "rgb", 0))
            decode_field(shard.read_bytes(name, "flow", 0))
    finally:
        shard.close()


def sign(owner: Any) -> None:
    """Make the checksum of attributes right again."""
    values = {name: value for name, value in owner.attrs.items() if name != "attrs_crc32"}
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    owner.attrs["attrs_crc32"] = attributes_crc(plain)


def replaced(name: str, make: Callable[[h5py.File, str, Path], None]) -> Callable[[h5py.File, Path], None]:
    def spoil(file: h5py.File, folder: Path) -> None:
        del file[name]
        make(file, name, folder)

    return spoil


def soft(file: h5py.File, name: str, _folder: Path) -> None:
    file[name] = h5py.SoftLink("/videos")


def dangling(file: h5py.File, name: str, _folder: Path) -> None:
    file[name] = h5py.SoftLink("/nowhere")


def external(file: h5py.File, name: str, folder: Path) -> None:
    file[name] = h5py.ExternalLink(str(folder / "private.h5"), "/")


def cycle(file: h5py.File, name: str, _folder: Path) -> None:
    file[name] = file["/"]  # a hard link to the root: a tree without an end


def outside_bytes(file: h5py.File, name: str, folder: Path) -> None:
    (folder / "private").write_bytes(b"secret" * 100)
    file.create_dataset(
        name,
        (600,),
        np.uint8,
        external=[(str(folder / "private"), 0, 600)],  # pyright: ignore
    )


def virtual(file: h5py.File, name: str, folder: Path) -> None:
    layout = h5py.VirtualLayout((600,), np.uint8)
    layout[:] = h5py.VirtualSource(str(folder / "private.h5"), "x", (600,))
    file.create_virtual_dataset(name, layout)


def never_written(file: h5py.File, name: str, _folder: Path) -> None:
    file.create_dataset(name, (1 << 44,), np.uint8, chunks=(65536,))


def huge_chunk(file: h5py.File, name: str, _folder: Path) -> None:
    file.create_dataset(name, (1 << 20,), np.uint8, chunks=(1 << 20,), maxshape=(None,))
    del file[name]
    file.create_dataset(name, (1 << 31,), np.uint8, chunks=(1 << 31,))


def unpacks(file: h5py.File, name: str, _folder: Path) -> None:
    file.create_dataset(name, data=np.zeros(1 << 24, np.uint8), compression="gzip")


def compound(file: h5py.File, name: str, _folder: Path) -> None:
    file.create_dataset(name, (NUM_FRAMES + 1,), [("a", np.int64), ("b", np.int64)])


def floats(file: h5py.File, name: str, _folder: Path) -> None:
    file.create_dataset(name, data=np.full(NUM_FRAMES + 1, np.inf))


def texts(file: h5py.File, name: str, _folder: Path) -> None:
    file.create_dataset(name, data=["x"] * (NUM_FRAMES + 1))


def table(file: h5py.File, name: str, _folder: Path) -> None:
    file.create_dataset(name, data=np.zeros((NUM_FRAMES + 1, 2), np.int64))


def scalar(file: h5py.File, name: str, _folder: Path) -> None:
    file[name] = np.int64(7)


def named_type(file: h5py.File, name: str, _folder: Path) -> None:
    file[name] = np.dtype("int64")


GROUPS = ("videos", GROUP, f"{GROUP}/rgb", f"{GROUP}/flow")
TABLES = tuple(
    f"{GROUP}/{stream}/{name}" for stream in ("rgb", "flow") for name in ("bytes", "offsets", "crc32")
)
LINKS = (soft, dangling, external, cycle, named_type)
DATA = (outside_bytes, virtual, never_written, huge_chunk, unpacks, compound, floats, texts, table, scalar)
CASES = [(name, make) for name in (*GROUPS, *TABLES) for make in LINKS] + [
    (name, make) for name in TABLES for make in DATA
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "make"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_links_and_data_sets_of_every_kind_are_refused(path: Path, name: str, make: Any) -> None:
    with h5py.File(path.parent / "private.h5", "w") as private:
        private["x"] = np.zeros(600, np.uint8)
    with h5py.File(path, "r+") as file:
        replaced(name, make)(file, path.parent)
    opened = (path.parent / "private.h5").stat().st_atime_ns
    with pytest.raises(ShardError, match=r"00000\.h5: .*verify --run RUN --repair") as caught:
        read_all(path)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)
    assert (path.parent / "private.h5").stat().st_atime_ns == opened


def test_another_groups_name_is_no_path(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["videos"].move("000000", "x y")
    with pytest.raises(ShardError, match="a group must be named by six or more digits, got 'x y'"):
        read_all(path)
    for name in ("../videos/000000", "/videos/000000", "000000/rgb", "."):
        with pytest.raises(ShardError, match="a group must be named by"):
            ShardFile(path).video(name)


WRONG = {
    "missing": None,
    "a list": np.zeros(3, np.int64),
    "a large table": np.zeros(7000, np.int64),
    "a compound": np.zeros((), [("a", np.int64)]),
    "infinite": np.inf,
    "not a number": np.nan,
    "negative": -1,
    "above 64 bits": 1e300,
    "bytes": np.bytes_(b"x"),
    "empty": h5py.Empty("f"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("format_version", wrong) for wrong in WRONG),
        # Any finite number may be a zero.
        *(("flow_zero", wrong) for wrong in WRONG if wrong not in ("negative", "above 64 bits")),
        *(("flow_scale", wrong) for wrong in WRONG if wrong != "above 64 bits"),
    ],
)
def test_attributes_of_the_file_are_checked(path: Path, name: str, wrong: str) -> None:
    check_attribute(path, "/", name, WRONG[wrong])


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (name, wrong)
        for name in ("id", "label", "num_frames", "height", "fps", "digest", "notes")
        for wrong in (*WRONG, "text")
        if (name, wrong) not in {("fps", "above 64 bits"), ("id", "text"), ("digest", "text")}
    ],
)
def test_attributes_of_a_video_are_checked(path: Path, name: str, wrong: str) -> None:
    check_attribute(path, GROUP, name, "x" if wrong == "text" else WRONG[wrong])


@pytest.mark.parametrize("name", ["flow_zero", "flow_scale"])
def test_a_text_as_scale_is_refused(path: Path, name: str) -> None:
    check_attribute(path, "/", name, "0.15")


def check_attribute(path: Path, owner: str, name: str, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[owner].attrs[name]
        if value is not None:
            file[owner].attrs[name] = value
        with suppress(TypeError):  # no checksum is defined for such a value; it is refused before
            sign(file[owner])
    with pytest.raises(ShardError, match=r"00000\.h5: ") as caught:
        read_all(path)
    for words in ("object has no attribute", "NoneType", "ufunc", "unexpected", "serializable"):
        assert words not in str(caught.value)


def test_a_hundred_attributes_are_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for number in range(100):
            file.attrs[f"a{number}"] = number
        sign(file)
    with pytest.raises(ShardError, match="attributes, more than 64"):
        read_all(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a device", "a link to itself"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "00000.h5"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "a device" else path)
    with pytest.raises(ShardError, match=r"00000\.h5: the file: not readable \("):
        ShardFile(path)


def bomb(width: int, height: int, *, garbage: bytes = b"") -> bytes:
    """A JPEG of some hundred bytes that declares any size in its header."""
    content = encode_image(np.zeros((16, 16), np.uint8))
    at = content.index(b"\xff\xc0")
    size = struct.pack(">HH", height, width)
    return content[:2] + garbage + content[2 : at + 5] + size + content[at + 9 :]


@pytest.mark.parametrize("garbage", [b"", b"\0\0\0", b"\xff\xff", b"\xff\0x", b"\xff\xd0", b"\xff\x01"])
def test_image_bombs_are_refused_by_their_header(path: Path, garbage: bytes) -> None:
    content = bomb(32000, 32000, garbage=garbage)
    assert image_size(content) == (32000, 32000)
    with h5py.File(path, "r+") as file:
        for stream in ("rgb", "flow"):
            part = file[f"{GROUP}/{stream}"]
            part["bytes"].resize((len(content) + NUM_FRAMES,))
            part["bytes"][: len(content)] = np.frombuffer(content, np.uint8)
            offsets = np.arange(len(part["offsets"])) + len(content) - 1
            offsets[0] = 0
            part["offsets"][...] = offsets
            part["crc32"][0] = item_crc("class/a.avi", stream, 0, content)
    shard = ShardFile(path)
    for decode, stream in ((decode_rgb, "rgb"), (decode_field, "flow")):
        with pytest.raises(ShardError, match="32000x32000 pixels by its header"):
            decode(shard.read_bytes("000000", stream, 0))
    shard.close()


def test_images_without_a_size_are_refused() -> None:
    for content in (
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe0\0\1",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM" + b"\0" * 99,
    ):
        assert image_size(content) == (0, 0)
        with pytest.raises(ShardError):
            decode_rgb(content)
    for codec in ("jpeg", "png"):
        assert image_size(encode_image(np.zeros((48, 64, 3), np.uint8), codec=codec)) == (64, 48)
