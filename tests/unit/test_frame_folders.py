"""Folders of images: names that stay inside, what each fault is called, and names of export."""

import os
import struct
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stin_pipe.pipeline.export import folder_names, renamed_folders
from stin_pipe.pipeline.listing.files import FoundFiles
from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.listing.official_lists import SplitLists, read_lists
from stin_pipe.pipeline.listing.source_files import look_at
from stin_pipe.pipeline.planning.plan import IMPORTED, ExtractParams
from stin_pipe.pipeline.shard.from_images import folder_sha256, import_video
from stin_pipe.pipeline.shard.image_folders import FrameNames, numbered_images, read_image, scan_frame_folders
from stin_pipe.stin.shards.codec import quantise_flow, recode_field
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardFile
from stin_pipe.stin.shards.schema import FlowCoding
from stin_pipe.stin.shards.writer import ShardWriter

NUM_FRAMES = 4
PARAMS = ExtractParams(
    size=None, short_side=32, bound_px=20.0, flow_backend=IMPORTED, flow=asdict(FrameNames()), codec="png"
)


def make_folder(
    folder: Path, *, num_flow: int = NUM_FRAMES - 1, first: int = 1, suffix: str = ".jpg"
) -> Path:
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    for index in range(NUM_FRAMES):
        image = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"img_{index + first:05d}{suffix}"), image)
    for index in range(num_flow):
        for axis in "xy":
            image = rng.integers(100, 156, (32, 40), dtype=np.uint8)
            cv2.imwrite(str(folder / f"flow_{axis}_{index + first:05d}{suffix}"), image)
    return folder


def imported(root: Path, name: str = "a/v", *, promised: int | None = None):
    """Import one folder into a shard under `root`; return the outcome and the shard's path."""
    path = root / "00000.h5"
    splits = {"1": "train"}
    video = ListedVideo(id=name, path=name, label=0, class_name="a", splits=splits, num_frames=promised)
    coding = PARAMS.flow_coding
    with ShardWriter(path, attributes={"flow_zero": coding.zero, "flow_scale": coding.scale}) as writer:
        outcome = import_video(video, root=root / "frames", params=PARAMS, writer=writer, timeout_s=60)
    return outcome, path


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("num_flow", [NUM_FRAMES - 1, NUM_FRAMES])
def test_a_good_folder_keeps_its_bytes_and_its_flow(tmp_path: Path, first: int, num_flow: int) -> None:
    folder = make_folder(tmp_path / "frames/a/v", num_flow=num_flow, first=first, suffix=".png")
    outcome, path = imported(tmp_path)
    assert outcome.state == "done" and outcome.meta is not None, outcome.message
    assert (outcome.meta.num_frames, outcome.meta.height, outcome.meta.width) == (NUM_FRAMES, 32, 40)
    assert (outcome.notes["messages"] != []) == (num_flow == NUM_FRAMES)
    shard = ShardFile(path)
    assert (shard.flow_coding.zero, shard.flow_coding.scale) == (127.5, 40 / 255)
    for index in range(NUM_FRAMES):
        stored = shard.read_bytes(outcome.group, "rgb", index).tobytes()
        assert stored == (folder / f"img_{index + first:05d}.png").read_bytes()
    for index in range(NUM_FRAMES - 1):
        field = cv2.imdecode(shard.read_bytes(outcome.group, "flow", index), cv2.IMREAD_GRAYSCALE)
        assert field is not None
        for axis, plane in zip("xy", np.split(field, 2), strict=True):
            wanted = cv2.imread(str(folder / f"flow_{axis}_{index + first:05d}.png"), cv2.IMREAD_GRAYSCALE)
            assert wanted is not None and np.array_equal(plane, wanted)


def spoil_gap(folder: Path) -> None:
    (folder / "img_00002.jpg").unlink()


def spoil_start(folder: Path) -> None:
    for index in (1, 2):
        (folder / f"img_0000{index}.jpg").unlink()


def spoil_flow_gap(folder: Path) -> None:
    (folder / "flow_y_00002.jpg").unlink()


def spoil_one_axis(folder: Path) -> None:
    (folder / "flow_y_00003.jpg").unlink()


def spoil_flow(folder: Path) -> None:
    for path in folder.glob("flow_*"):
        path.unlink()


def spoil_size(folder: Path) -> None:
    cv2.imwrite(str(folder / "img_00003.jpg"), np.zeros((32, 48, 3), np.uint8))


def spoil_flow_size(folder: Path) -> None:
    cv2.imwrite(str(folder / "flow_x_00001.jpg"), np.zeros((16, 20), np.uint8))


def spoil_cut(folder: Path) -> None:
    content = (folder / "img_00003.jpg").read_bytes()
    (folder / "img_00003.jpg").write_bytes(content[: len(content) // 2])


def spoil_text(folder: Path) -> None:
    (folder / "flow_x_00002.jpg").write_text("no image")


def spoil_inside(folder: Path) -> None:
    content = (folder / "img_00001.jpg").read_bytes()
    (folder / "img_00001.jpg").write_bytes(content[:3] + b"\0" * (len(content) - 5) + content[-2:])


def spoil_twice(folder: Path) -> None:
    cv2.imwrite(str(folder / "img_00002.png"), np.zeros((32, 40, 3), np.uint8))


def spoil_alone(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "img_00001.jpg":
            path.unlink()


def spoil_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def spoil_link(folder: Path) -> None:
    secret = folder.parents[2] / "secret.jpg"
    cv2.imwrite(str(secret), np.zeros((32, 40, 3), np.uint8))
    (folder / "img_00002.jpg").unlink()
    (folder / "img_00002.jpg").symlink_to(secret)


def spoil_pipe(folder: Path) -> None:
    (folder / "img_00002.jpg").unlink()
    os.mkfifo(folder / "img_00002.jpg")


@pytest.mark.parametrize(
    ("spoil", "reason", "text"),
    [
        (spoil_gap, "missing_image", "img_00002 is missing between 1 and 4"),
        (spoil_start, "missing_image", "but begin at 3"),
        (spoil_flow_gap, "missing_image", "flow_y_00002"),
        (spoil_one_axis, "flow_count", "4 frames need 3 images each of flow x and flow y, found 3 and 2"),
        (spoil_flow, "flow_count", "found 0 and 0"),
        (spoil_size, "unequal_size", "img_00003.jpg: 48x32, but the first image is 40x32"),
        (spoil_flow_size, "unequal_size", "flow_x_00001.jpg: 20x16, but the first image is 40x32"),
        (spoil_cut, "unreadable_image", "img_00003.jpg: the image is cut off"),
        (spoil_text, "unreadable_image", "flow_x_00002.jpg: neither a JPEG nor a PNG"),
        (spoil_inside, "unreadable_image", "img_00001.jpg: the image cannot be decoded"),
        (spoil_twice, "ambiguous", "have one number"),
        (spoil_alone, "too_short", "motion needs at least 2"),
        (spoil_all, "no_frames", "no image named img_%05d"),
        (spoil_link, "outside", "img_00002.jpg: a link out of the folder"),
        (spoil_pipe, "unreadable_image", "img_00002.jpg: not a file"),
    ],
)
def test_a_bad_folder_fails_with_its_reason(tmp_path: Path, spoil, reason: str, text: str) -> None:
    spoil(make_folder(tmp_path / "frames/a/v"))
    outcome, path = imported(tmp_path)
    assert (outcome.state, outcome.reason) == ("failed", reason), outcome.message
    assert text in outcome.message
    assert ShardFile(path).group_names() == []


def test_a_linked_folder_is_not_followed_out(tmp_path: Path) -> None:
    make_folder(tmp_path / "elsewhere")
    (tmp_path / "frames/a").mkdir(parents=True)
    (tmp_path / "frames/a/v").symlink_to(tmp_path / "elsewhere")
    assert imported(tmp_path)[0].reason == "outside"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("img.jpg", "must hold one number"),
        ("%05d_%05d.jpg", "must hold one number"),
        ("img_%s_%05d.jpg", "must hold one number"),
        ("../%05d.jpg", "must stay inside"),
        ("/tmp/%05d.jpg", "must stay inside"),
        ("flow_x_%05d", "must differ"),
    ],
)
def test_names_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameNames(image=name)


def test_other_names_in_folders_of_their_own(tmp_path: Path) -> None:
    names = FrameNames(image="f%06d.png", flow_x="u/%06d", flow_y="v/%06d")
    (tmp_path / "u").mkdir()
    for index in (0, 1, 2):
        (tmp_path / f"f{index:06d}.png").touch()
        (tmp_path / "u" / f"{index:06d}.JPG").touch()
    (tmp_path / "f1.png").touch()  # not the six digits of the name
    (tmp_path / "f000001.jpg").touch()  # not the extension of the name
    found = [path.name for path in numbered_images(tmp_path, names.image)]
    assert found == ["f000000.png", "f000001.png", "f000002.png"]
    assert len(numbered_images(tmp_path, names.flow_x)) == 3
    assert numbered_images(tmp_path, names.flow_y) == []


def test_class_folders_and_flat_ones_are_found(tmp_path: Path) -> None:
    make_folder(tmp_path / "jump" / "v.one")
    make_folder(tmp_path / "flat.v1")
    (tmp_path / "jump" / "empty").mkdir()
    (tmp_path / ".hidden" / "v").mkdir(parents=True)
    found = scan_frame_folders(tmp_path, FrameNames().image)
    assert found == [PurePosixPath(name) for name in ("flat.v1", "jump/empty", "jump/v.one")]


def test_lists_of_frame_folders_give_labels_and_splits(tmp_path: Path) -> None:
    root, lists = tmp_path / "frames", tmp_path / "lists"
    for name in ("jump/a.1", "jump/b", "run/c", "run/d"):
        (root / name).mkdir(parents=True)
    lists.mkdir()
    (lists / "ucf101_rgb_train_split_1.txt").write_text("data/jump/a.1 9 1\nrun/c 9 0\n")
    (lists / "ucf101_rgb_val_split_1.txt").write_text("jump/b 9 1\nrun/gone 9 0\n")
    (lists / "ucf101_flow_val_split_1.txt").write_text("nonsense\n")
    listing = list_videos(
        root,
        splits_dir=lists,
        find=lambda folder: FoundFiles(videos=scan_frame_folders(folder, FrameNames().image)),
    )
    assert (listing.classes, listing.split_names, listing.dataset) == (("run", "jump"), ("1",), "lists")
    found = {video.id: (video.label, video.splits["1"]) for video in listing.videos}
    assert found == {"jump/a.1": (1, "train"), "jump/b": (1, "test"), "run/c": (0, "train")}
    assert (listing.num_absent, listing.num_skipped) == (1, 1)
    (lists / "ucf101_rgb_val_split_1.txt").write_text("jump/b 9 1\njump/a.1 9 1\n")
    with pytest.raises(StinPipeError, match=r"val_split_1\.txt:2: the video is in both train and test"):
        list_videos(root, splits_dir=lists)
    (lists / "ucf101_rgb_val_split_1.txt").write_text("jump/b 1\n")
    with pytest.raises(StinPipeError, match="expected `path total_frames label`, got 'jump/b 1'"):
        list_videos(root, splits_dir=lists)


def test_folder_names_are_plain_and_apart() -> None:
    ids = [
        "a/x.avi",
        "a/X.mp4",
        "b c/v 1.avi",
        "../../etc/passwd",
        "é/ü.mkv",
        "a/v#2-5",
        "a/v.avi#2-5",
        "..avi",
    ]
    found = folder_names(ids)
    assert len({name.lower() for name in found.values()}) == len(ids)
    assert found["b c/v 1.avi"] == "b_c/v_1" and found["é/ü.mkv"] == "é/ü"
    assert found["a/x.avi"].startswith("a/x-") and found["../../etc/passwd"] == "_._.._etc/passwd"


@given(st.lists(st.text(max_size=300), unique=True, max_size=6))
def test_no_folder_name_leaves_its_place(ids: list[str]) -> None:
    found = folder_names(ids)
    assert len({name.lower() for name in found.values()}) == len(ids)
    for name in found.values():
        parts = name.split("/")
        assert len(parts) == 2 and os.path.normpath(name) == name
        assert all(part and not part.startswith(".") and len(part.encode()) < 200 for part in parts)
        assert not any(char.isspace() or char == "\0" for char in name)


def test_recoding_stays_within_half_a_step_and_is_exact_both_ways_at_one_bound() -> None:
    rng = np.random.default_rng(1)
    flow = rng.uniform(-19.5, 19.5, (40, 40, 2)).astype(np.float32)
    ours, theirs = FlowCoding.from_bound(20.0), FlowCoding.of_frame_folders(20.0)
    field = quantise_flow(flow, bound_px=20.0).reshape(2, 40, 40)
    there = recode_field(field, old=ours, new=theirs)
    values = (there - theirs.zero) * theirs.scale
    assert np.abs(values - (field - ours.zero) * ours.scale).max() <= theirs.scale / 2 + 1e-9
    wanted = np.rint(255 * ((field - ours.zero) * ours.scale + 20) / 40)
    assert np.array_equal(there, wanted)
    assert np.array_equal(recode_field(there, old=theirs, new=theirs), there)
    assert np.abs(recode_field(there, old=theirs, new=ours).astype(int) - field).max() <= 1


def test_what_export_renames_is_told_and_found_again(tmp_path: Path) -> None:
    ids = ["tourne à gauche/cercle 11.mp4", "100% carré #1?/a.avi", "day1/long.mov#2-5", "jump/b.mp4"]
    assert renamed_folders(ids) == {
        ids[0]: "tourne_à_gauche/cercle_11",
        ids[1]: "100__carré__1_/a",
        ids[2]: "day1/long_2-5",
    }
    names = ["tourne à gauche", "100% carré #1?", "walk", "jump"]
    folders = list(folder_names(ids).values())
    for folder in folders:
        (tmp_path / "rawframes" / folder).mkdir(parents=True)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(names, 1)))
    (lists / "rgb_train_split_1.txt").write_text(
        "".join(f"{folder} 9 {label}\n" for label, folder in enumerate(folders))
    )
    listing = list_videos(
        tmp_path / "rawframes",
        splits_dir=lists,
        find=lambda root: FoundFiles(videos=scan_frame_folders(root, FrameNames().image)),
    )
    assert (listing.num_absent, listing.num_skipped, listing.classes) == (0, 0, tuple(names))
    found = {video.path: (names[video.label], video.class_name) for video in listing.videos}
    assert found == dict(zip(folders, zip(names, names, strict=True), strict=True))
    ids_found = {video.path: video.id for video in listing.videos}
    assert ids_found == {folder: folder for folder in folders}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_that_claims_an_absurd_size_is_never_decoded(tmp_path: Path, suffix: str) -> None:
    image = np.zeros((32, 40, 3), np.uint8)
    content = bytearray(cv2.imencode(suffix, image)[1].tobytes())
    path = tmp_path / f"img{suffix}"
    path.write_bytes(content)
    assert read_image(path, str(tmp_path)) == content

    # Height and width: in the frame header of a JPEG, in the first chunk of a PNG.
    at, size = (content.index(b"\xff\xc0") + 5, ">HH") if suffix == ".jpg" else (16, ">II")
    struct.pack_into(size, content, at, 60000, 60000)
    path.write_bytes(content)
    with pytest.raises(StinPipeError, match="60000x60000 pixels; at most 67108864 are decoded"):
        read_image(path, str(tmp_path))


def lists_of(tmp_path: Path, **lists: str) -> SplitLists:
    """Read lists of frame folders, named by keyword: `train="A/1 9 0"`, with `/` between lines."""
    for name, text in lists.items():
        file = "classInd.txt" if name == "classes" else f"x_rgb_{name}_split_1.txt"
        (tmp_path / file).write_text(text.replace(" / ", "\n") + "\n")
    return read_lists(tmp_path, "frames")


@pytest.mark.parametrize("first", [0, 1, 7])
def test_labels_may_count_from_any_number_beside_the_names_of_the_folders(tmp_path: Path, first: int) -> None:
    train = f"A/1 9 {first} / A/2 9 {first} / B/3 9 {first + 1}"
    lists = lists_of(tmp_path, classes="1 A / 2 B / 3 C", train=train)
    assert {entry.file_name: entry.class_name for entry in lists.entries} == {"1": "A", "2": "A", "3": "B"}
    assert lists.classes == ("A", "B", "C")


def test_labels_from_1_of_flat_folders_are_known_by_the_last_class(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, classes="1 A / 2 B", train="v1 9 1 / v2 9 2")
    assert {entry.file_name: entry.class_name for entry in lists.entries} == {"v1": "A", "v2": "B"}


def test_a_label_that_contradicts_its_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StinPipeError, match=r"_1.txt:3: label 0 with a video of the folder B, .* class 1"):
        lists_of(tmp_path, classes="1 A / 2 B", train="A/1 9 0 / B/2 9 1 / B/3 9 0")


def test_a_label_behind_a_name_of_a_ucf_list_is_compared_with_classind(tmp_path: Path) -> None:
    (tmp_path / "classInd.txt").write_text("1 A\n2 B\n")
    for first in (0, 1):
        (tmp_path / "trainlist01.txt").write_text(f"A/1.avi {first}\nB/2.avi {first + 1}\n")
        assert len(read_lists(tmp_path, "ucf101").entries) == 2
    (tmp_path / "trainlist01.txt").write_text("A/1.avi 1\nB/2.avi 1\n")
    with pytest.raises(StinPipeError, match=r"trainlist01.txt:2: label 1 with a video of the folder B"):
        read_lists(tmp_path, "ucf101")


def test_val_and_test_lists_are_not_joined(tmp_path: Path) -> None:
    train = "A/1 9 0 / B/2 9 1"
    lists = lists_of(tmp_path, train=train, val="A/3 9 0", test="A/4 9 0 / B/5 9 1")
    assert {entry.file_name: entry.splits["1"] for entry in lists.entries} == {
        "1": "train", "2": "train", "4": "test", "5": "test",
    }  # fmt: skip
    assert "the 1 videos of val are left out" in lists.notes[0]
    (tmp_path / "x_rgb_test_split_1.txt").unlink()
    lists = lists_of(tmp_path, train=train, val="A/3 9 0")
    assert lists.notes == ("split 1 has no test list: its val list is the test side",)
    assert [entry.splits["1"] for entry in lists.entries] == ["train", "train", "test"]


def test_a_folder_with_fewer_frames_than_its_list_promises_fails(tmp_path: Path) -> None:
    make_folder(tmp_path / "frames" / "a" / "v")
    found = NUM_FRAMES
    for promised, failed in ((found, False), (found - 1, False), (None, False), (found + 1, True)):
        outcome = imported(tmp_path, promised=promised)[0]
        assert (outcome.reason == "frame_count") == failed, promised
    assert f"the list promises {found + 1} frames, the folder holds {found}" in outcome.message
    (tmp_path / "x_rgb_train_split_2.txt").write_text("A/1 9 0\n")
    with pytest.raises(StinPipeError, match="9 frames here, 8 in another list"):
        lists_of(tmp_path, train="A/1 8 0")


@pytest.mark.parametrize("streams", ["both", "rgb", "flow"])
def test_the_digest_of_a_folder_is_that_in_its_shard_and_follows_every_image(tmp_path: Path, streams) -> None:
    folder = make_folder(tmp_path / "frames" / "a" / "v")
    params = PARAMS.only(streams)

    def digest() -> str:
        return folder_sha256(folder, root=tmp_path / "frames", params=params)

    video = ListedVideo(id="a/v", path="a/v", label=0, class_name="a", splits={})
    coding = {"flow_zero": params.flow_coding.zero, "flow_scale": params.flow_coding.scale}
    with ShardWriter(tmp_path / "00000.h5", attributes=coding, streams=streams) as writer:
        outcome = import_video(video, root=tmp_path / "frames", params=params, writer=writer, timeout_s=60)
    assert outcome.meta is not None and outcome.meta.source_sha256 == digest()

    seen, states = {digest()}, {look_at(folder)}
    for name in ("img_00002.jpg", "flow_x_00003.jpg"):
        image = cv2.imread(str(folder / name))
        assert image is not None
        cv2.imwrite(str(folder / name), 255 - image)
        seen.add(digest())
        states.add(look_at(folder))
    assert (len(seen), len(states)) == ({"both": 3, "rgb": 2, "flow": 2}[streams], 3)
