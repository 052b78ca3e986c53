"""One folder of images into a shard: frames as they are, x and y flow as one field.

T frames need T-1 fields. Of T fields the last is left out: the frame that it leads to is not stored.
"""

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.fill import Filled, fill_video
from stin_pipe.pipeline.shard.image_folders import FRAMES, FrameNames, names_from, numbered_images, read_image
from stin_pipe.stin.shards.codec import decode_image, encode_image
from stin_pipe.stin.shards.errors import ShardError, StinPipeError
from stin_pipe.stin.shards.schema import VideoOutcome
from stin_pipe.stin.shards.writer import ShardWriter, VideoWriter


def import_video(
    video: ListedVideo, *, root: Path, params: ExtractParams, writer: ShardWriter, timeout_s: float
) -> VideoOutcome:
    """Put one folder of images into the open shard; the arguments are those of `extract_video`.

    Frames keep their bytes, so they lose nothing more. Fields are encoded again, since x and y become one
    image.
    """
    notes = DecodeNotes()
    deadline = time.monotonic() + timeout_s

    def fill(target: VideoWriter) -> Filled:
        folder = _Folder(root / video.path, str(root.resolve()), params, notes)
        return folder.write(target, deadline)

    return fill_video(video, writer, notes, fill)


class _Folder:
    """The images of one video, matched by number."""

    def __init__(self, path: Path, root: str, params: ExtractParams, notes: DecodeNotes) -> None:
        if os.path.commonpath([os.path.realpath(path), root]) != root:
            raise DecodeError("outside", f"{path}: a link that leaves {root}; copy the folder instead")

        # In a plan of imports the parameters of flow are the names of its images.
        names = names_from(params.flow)
        self.path, self._root, self._params = path, root, params
        self._notes, self._digest = notes, hashlib.sha256()
        self._images = numbered_images(path, names.image)
        flow_x, flow_y = (numbered_images(path, name) for name in (names.flow_x, names.flow_y))

        if not self._images:
            raise DecodeError("no_frames", f"{path}: no image named {names.image}; see --image-name")
        if len(self._images) < 2:
            raise DecodeError("too_short", f"{path}: 1 frame; motion needs at least 2")
        if len(flow_x) != len(flow_y) or len(flow_x) - len(self._images) not in (-1, 0):
            raise DecodeError(
                "flow_count",
                f"{path}: {len(self._images)} frames need {len(self._images) - 1} images each of flow x and "
                f"flow y, found {len(flow_x)} and {len(flow_y)}",
            )

        if len(flow_x) == len(self._images):
            notes.messages.append("as many fields as frames: the last field was left out")
        self._fields = list(zip(flow_x, flow_y, strict=True))[: len(self._images) - 1]

    def write(self, target: VideoWriter, deadline: float) -> Filled:
        """Stream all images into the shard, checking each.

        Raises:
            DecodeError: an image is damaged or of another size than the first, or time is up.
        """
        shape = None
        for index, path in enumerate(self._images):
            if time.monotonic() > deadline:
                raise DecodeError(
                    "timeout", f"{self.path}: not finished within the time limit a video", retry=True
                )

            content, frame = self._read(path)
            self._notes.decoded += 1
            shape = shape or frame.shape[:2]
            self._require_shape(path, frame, shape)
            target.append_frame(content)
            if index:
                target.append_field(self._field(*self._fields[index - 1], shape))

        assert shape is not None, "a folder without images was refused"
        return Filled(
            height=shape[0],
            width=shape[1],
            fps=self._params.fps or 0.0,
            source_sha256=self._digest.hexdigest(),
        )

    def _field(self, path_x: Path, path_y: Path, shape: tuple[int, ...]) -> bytes:
        planes = []
        for path in (path_x, path_y):
            _, plane = self._read(path, grey=True)
            self._require_shape(path, plane, shape)
            planes.append(plane)
        return encode_image(np.concatenate(planes), codec=self._params.codec)

    def _read(self, path: Path, *, grey: bool = False) -> tuple[bytes, np.ndarray]:
        content = read_image(path, self._root)
        # With the lengths, two folders whose bytes are cut into files differently have different digests.
        self._digest.update(len(content).to_bytes(8, "little"))
        self._digest.update(content)
        try:
            return content, decode_image(content, grey=grey)
        except ShardError as error:
            raise DecodeError("unreadable_image", f"{path}: the image cannot be decoded") from error

    def _require_shape(self, path: Path, image: np.ndarray, shape: tuple[int, ...]) -> None:
        if image.shape[:2] != shape:
            raise DecodeError(
                "unequal_size",
                f"{path}: {image.shape[1]}x{image.shape[0]}, but the first frame is {shape[1]}x{shape[0]}",
            )


def require_images(listing: Listing, names: FrameNames) -> None:
    """Refuse a folder in which no image is found at all: the folder is the wrong one, or the names are.

    Raises:
        StinPipeError: none of the first videos has an image of that name.
    """
    for video in listing.videos[:50]:
        try:
            if numbered_images(listing.root / video.path, names.image):
                return
        except DecodeError:
            return  # there are images; the import itself says what is wrong with them
    inner = listing.root / FRAMES
    hint = f"; did you mean {inner}?" if inner.is_dir() else ""
    raise StinPipeError(
        f"{listing.root}: no images named {names.image}; expected {listing.root}/<class>/<video>/"
        f"{names.image % 1}.jpg, or give --image-name{hint}"
    )


def first_short_side(listing: Listing, names: FrameNames) -> int:
    """Return the shorter side of the first video whose first frame can be read; 256 if there is none.

    A model that was trained on imported frames resizes the videos that it classifies to this side.
    """
    root = str(listing.root.resolve())
    for video in listing.videos:
        try:
            images = numbered_images(listing.root / video.path, names.image)
            if images:
                side = min(decode_image(read_image(images[0], root), grey=True).shape)
                return min(max(side, 16), 4096)
        except (DecodeError, ShardError):
            continue  # the import itself says what is wrong with it
    return 256
