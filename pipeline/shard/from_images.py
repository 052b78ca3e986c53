"""One folder of images into a shard: frames as they are, x and y flow as one field.

T frames need T-1 fields. Of T fields the last is left out: the frame that it leads to is not stored. Where a
folder holds flow alone, its fields say how many frames there were.
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
from stin_pipe.stin.shards.schema import Streams, VideoMeta, VideoOutcome, streams_in
from stin_pipe.stin.shards.writer import ShardWriter, VideoWriter


def import_video(
    video: ListedVideo,
    *,
    root: Path,
    params: ExtractParams,
    writer: ShardWriter,
    timeout_s: float,
    stored: VideoMeta | None = None,
) -> VideoOutcome:
    """Put one folder of images into the open shard; the arguments are those of `extract_video`.

    Frames keep their bytes, so they lose nothing more. Fields are encoded again, since x and y become one
    image.
    """
    notes = DecodeNotes()
    deadline = time.monotonic() + timeout_s

    def fill(target: VideoWriter) -> Filled:
        folder = _Folder(root / video.path, str(root.resolve()), params, notes, stored)
        folder.require_frames(video.num_frames)
        return folder.write(target, deadline)

    return fill_video(video, writer, notes, fill)


def folder_sha256(path: Path, *, root: Path, params: ExtractParams) -> str:
    """Return the digest of the images of a video, as its shard records it.

    Raises:
        DecodeError: the folder is not whole.
        OSError: it cannot be read.
    """
    return _Folder(path, str(root.resolve()), params, DecodeNotes(), None).sha256()


class _Folder:
    """The images of one video, matched by number."""

    def __init__(
        self, path: Path, root: str, params: ExtractParams, notes: DecodeNotes, stored: VideoMeta | None
    ) -> None:
        if os.path.commonpath([os.path.realpath(path), root]) != root:
            raise DecodeError("outside", f"{path}: a link that leaves {root}; copy the folder instead")

        # In a plan of imports the parameters of flow are the names of its images.
        names = names_from(params.flow)
        self.path, self._root, self._params = path, root, params
        self._notes, self._digest = notes, hashlib.sha256()
        self._shape: tuple[int, int] | None = None
        self._images = numbered_images(path, names.image) if params.stores("rgb") else []
        self._fields: list[tuple[Path, Path]] = []
        if params.stores("rgb"):
            if not self._images:
                raise DecodeError("no_frames", f"{path}: no image named {names.image}; see --image-name")
            if len(self._images) < 2:
                raise DecodeError("too_short", f"{path}: 1 frame; motion needs at least 2")
        if params.stores("flow"):
            known = stored.num_frames if stored else len(self._images) or None
            self._fields = self._matched_fields(names, num_frames=known)

    def _matched_fields(self, names: FrameNames, *, num_frames: int | None) -> list[tuple[Path, Path]]:
        """Return the images of x and y flow, which must fit the number of frames where there are any."""
        flow_x, flow_y = (numbered_images(self.path, name) for name in (names.flow_x, names.flow_y))
        if num_frames is None:
            if not flow_x or len(flow_x) != len(flow_y):
                raise DecodeError(
                    "flow_count",
                    f"{self.path}: {len(flow_x)} images of flow x ({names.flow_x}) and {len(flow_y)} of flow "
                    f"y ({names.flow_y}); each field needs one of both, see --flow-x-name and --flow-y-name",
                )
            num_frames = len(flow_x) + 1

        if len(flow_x) != len(flow_y) or len(flow_x) - num_frames not in (-1, 0):
            raise DecodeError(
                "flow_count",
                f"{self.path}: {num_frames} frames need {num_frames - 1} images each of flow x and flow y, "
                f"found {len(flow_x)} and {len(flow_y)}",
            )
        if len(flow_x) == num_frames:
            self._notes.messages.append("as many fields as frames: the last field was left out")
        return list(zip(flow_x, flow_y, strict=True))[: num_frames - 1]

    def require_frames(self, promised: int | None) -> None:
        """Refuse a folder with fewer images than a list promises: the rest was never made, or not copied."""
        found = len(self._images) or len(self._fields)
        if promised is None or promised == found:
            return
        if found < promised - (not self._images):
            raise DecodeError(
                "frame_count",
                f"{self.path}: the list promises {promised} frames, the folder holds {found}; make the "
                "folder again, or correct the list",
            )
        if found > promised + 1:
            self._notes.messages.append(f"the list promises {promised} frames, the folder holds {found}")

    def sha256(self) -> str:
        """Read all images in the order of `write`."""
        for index in range(max(len(self._images), len(self._fields) + 1)):
            for path in self._images[index : index + 1]:
                self._content(path)
            for path in self._fields[index - 1] if self._fields and index else ():
                self._content(path)
        return self._digest.hexdigest()

    def write(self, target: VideoWriter, deadline: float) -> Filled:
        """Stream all images into the shard, checking each.

        Raises:
            DecodeError: an image is damaged or of another size than the first, or time is up.
        """
        # Field i follows frame i+1, to which it leads: the digest of the source depends on this order.
        for index in range(max(len(self._images), len(self._fields) + 1)):
            if time.monotonic() > deadline:
                raise DecodeError(
                    "timeout", f"{self.path}: not finished within the time limit a video", retry=True
                )
            self._notes.decoded += 1
            if self._images:
                content, _ = self._read(self._images[index])
                target.append_frame(content)
            if self._fields and index:
                target.append_field(self._field(*self._fields[index - 1]))

        assert self._shape is not None, "a folder without images was refused"
        return Filled(
            height=self._shape[0],
            width=self._shape[1],
            fps=self._params.fps or 0.0,
            source_sha256=self._digest.hexdigest(),
        )

    def _field(self, path_x: Path, path_y: Path) -> bytes:
        planes = [self._read(path, grey=True)[1] for path in (path_x, path_y)]
        return encode_image(np.concatenate(planes), codec=self._params.codec)

    def _read(self, path: Path, *, grey: bool = False) -> tuple[bytes, np.ndarray]:
        content = self._content(path)
        try:
            image = decode_image(content, grey=grey)
        except ShardError as error:
            raise DecodeError("unreadable_image", f"{path}: the image cannot be decoded") from error

        height, width = image.shape[:2]
        self._shape = self._shape or (height, width)
        if (height, width) != self._shape:
            first = f"{self._shape[1]}x{self._shape[0]}"
            raise DecodeError("unequal_size", f"{path}: {width}x{height}, but the first image is {first}")
        return content, image

    def _content(self, path: Path) -> bytes:
        content = read_image(path, self._root)
        # With the lengths, two folders whose bytes are cut into files differently have different digests.
        self._digest.update(len(content).to_bytes(8, "little"))
        self._digest.update(content)
        return content


def require_images(listing: Listing, names: FrameNames, streams: Streams) -> None:
    """Refuse a folder in which a stream has no image at all: the folder is the wrong one, or the names are.

    Raises:
        StinPipeError: none of the first videos has an image of that name.
    """
    inner = listing.root / FRAMES
    hint = f"; did you mean {inner}?" if inner.is_dir() else ""
    for stream in streams_in(streams):
        name, option = (names.image, "--image-name") if stream == "rgb" else (names.flow_x, "--flow-x-name")
        if any(_has_images(listing.root / video.path, name) for video in listing.videos[:50]):
            continue
        other = {"rgb": "flow", "flow": "rgb"}[stream]
        alone = f"; for folders without them give --streams {other}" if streams == "both" else ""
        raise StinPipeError(
            f"{listing.root}: no images named {name}; expected {listing.root}/<class>/<video>/"
            f"{name % 1}.jpg, or give {option}{hint}{alone}"
        )


def _has_images(folder: Path, name: str) -> bool:
    try:
        return bool(numbered_images(folder, name))
    except DecodeError:
        return True  # there are images; the import itself says what is wrong with them


def first_short_side(listing: Listing, name: str) -> int:
    """Return the shorter side of the first video whose first image can be read; 256 if there is none.

    A model that was trained on imported frames resizes the videos that it classifies to this side.
    """
    root = str(listing.root.resolve())
    for video in listing.videos:
        try:
            images = numbered_images(listing.root / video.path, name)
            if images:
                side = min(decode_image(read_image(images[0], root), grey=True).shape)
                return min(max(side, 16), 4096)
        except (DecodeError, ShardError):
            continue  # the import itself says what is wrong with it
    return 256
