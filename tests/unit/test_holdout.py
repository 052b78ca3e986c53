"""What trains, what validates: whole recordings, never the test list, always the same."""

from pathlib import Path

import pytest

from stin_pipe.stin.clips.mirrored import mirrored_pairs
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest, ManifestVideo, list_digest
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.holdout import divide_training_list
from stin_pipe.stin.training.plan import notify_of_lists, plan_training
from stin_pipe.stin.training.recipes import resolve_recipe


def manifest(rows):
    """Rows of (class, number, group key, side)."""
    names = tuple(sorted({row[0] for row in rows}))
    videos = {}
    for name, number, group, side in rows:
        video_id = f"{name}/{number:03d}.avi"
        videos[video_id] = ManifestVideo(
            id=video_id,
            label=names.index(name),
            num_frames=9,
            height=32,
            width=32,
            fps=10.0,
            shard="00000",
            group=f"{len(videos):06d}",
            splits={"1": side},
            digest=f"digest of {video_id}",
            group_key=group,
        )
    return Manifest(
        dataset="folder",
        classes=names,
        split_names=("1",),
        split_from="lists",
        split_source="",
        videos=videos,
        failed=(),
        num_skipped=0,
        num_absent=0,
        num_pending=0,
        bound_px=10.0,
        flow_backend="made",
        fingerprint="",
    )


GROUPED = manifest(
    [
        (name, number, f"g{number // 4:02d}", "train" if number < 40 else "test")
        for name in ("a", "b")
        for number in range(48)
    ]
)


def test_whole_recordings_are_held_out_of_every_class():
    lists = divide_training_list(GROUPED, split="1", share=0.2, stream="rgb")
    assert len(lists.held_out) == 2 * 2 * 4  # two of ten recordings, of each class
    for label in (0, 1):
        held = {video.group_key for video in lists.held_out if video.label == label}
        kept = {video.group_key for video in lists.train if video.label == label}
        assert len(held) == 2
        assert not held & kept


def test_the_test_list_is_never_touched_and_nothing_is_lost():
    lists = divide_training_list(GROUPED, split="1", share=0.2, stream="rgb")
    used = [*lists.train, *lists.held_out]
    assert sorted(video.id for video in used) == sorted(v.id for v in GROUPED.subset("1", "train"))
    assert all(video.splits["1"] == "train" for video in used)


def test_the_division_is_stable_and_does_not_move_when_a_class_is_added():
    before = divide_training_list(GROUPED, split="1", share=0.2, stream="rgb")
    assert divide_training_list(GROUPED, split="1", share=0.2, stream="rgb") == before
    more = manifest(
        [
            (name, number, f"g{number // 4:02d}", "train" if number < 40 else "test")
            for name in ("a", "b", "c")
            for number in range(48)
        ]
    )
    after = divide_training_list(more, split="1", share=0.2, stream="rgb")
    assert [v.id for v in after.held_out if v.label < 2] == [v.id for v in before.held_out]


def test_without_groups_single_videos_are_held_out():
    lists = divide_training_list(
        manifest([(name, number, None, "train") for name in "ab" for number in range(10)]),
        split="1",
        share=0.2,
        stream="rgb",
    )
    assert len(lists.held_out) == 4


def test_share_zero_holds_nothing_out():
    lists = divide_training_list(GROUPED, split="1", share=0, stream="rgb")
    assert lists.held_out == ()
    assert len(lists.train) == 80


def test_small_lists_still_hold_one_recording_out_but_never_the_last_of_a_class():
    rows = [("a", 0, None, "train"), ("a", 1, None, "train"), ("b", 0, None, "train")]
    lists = divide_training_list(manifest(rows), split="1", share=0.1, stream="rgb")
    assert len(lists.held_out) == 1
    assert {video.label for video in lists.train} == {0, 1}
    alone = divide_training_list(manifest([rows[0], rows[2]]), split="1", share=0.5, stream="rgb")
    assert alone.held_out == ()


def test_classes_of_the_test_list_without_training_are_named():
    rows = [("a", 0, None, "train"), ("b", 0, None, "train"), ("c", 0, None, "test"), ("a", 1, None, "test")]
    assert divide_training_list(manifest(rows), split="1", share=0.1, stream="rgb").unseen_classes == ("c",)


def test_one_class_is_not_enough_to_train():
    with pytest.raises(StinPipeError, match="1 extracted training videos of 1 classes"):
        divide_training_list(
            manifest([("a", 0, None, "train"), ("b", 0, None, "test")]), split="1", share=0.1, stream="rgb"
        )


def test_unknown_splits_are_refused_with_the_known_ones():
    with pytest.raises(StinPipeError, match="its splits are: 1"):
        divide_training_list(GROUPED, split="7", share=0.1, stream="rgb")


def test_the_digest_follows_ids_and_content():
    videos = GROUPED.subset("1", "train")
    assert list_digest(videos, "rgb") == list_digest(tuple(videos), "rgb")
    assert list_digest(videos, "rgb") != list_digest(videos[1:], "rgb")
    assert list_digest(videos, "rgb") != list_digest((videos[1], videos[0], *videos[2:]), "rgb")


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("Swiping Left", "Swiping Right", "Stop"), [("Swiping Left", "Swiping Right")]),
        (("TurnRight", "TurnLeft"), [("TurnLeft", "TurnRight")]),
        (("arm_links", "arm_rechts"), [("arm_links", "arm_rechts")]),
        (("virar a esquerda", "virar a direita"), [("virar a direita", "virar a esquerda")]),
        (("Turn Clockwise", "Turn Counter-Clockwise"), [("Turn Clockwise", "Turn Counter-Clockwise")]),
        (
            ("\u5411\u5de6\u6325\u624b", "\u5411\u53f3\u6325\u624b"),
            [("\u5411\u53f3\u6325\u624b", "\u5411\u5de6\u6325\u624b")],
        ),
        (("left to right", "right to left"), [("left to right", "right to left")]),
        (("Push", "Pull", "Open", "Close", "Swipe Up", "Swipe Down"), []),
        (("UprightJump", "Bright", "Cleft", "Right", "Swipe Left"), []),
    ],
)
def test_classes_that_a_mirror_exchanges_are_known_by_their_names(names, pairs) -> None:
    assert list(mirrored_pairs(names)) == pairs


def test_a_training_that_mirrors_says_so_where_a_mirror_exchanges_classes(tmp_path: Path) -> None:
    run = manifest([(name, n, None, "train") for name in ("turn_left", "turn_right") for n in range(4)])
    for flip, told in ((True, True), (False, False)):
        said: list[str] = []
        config = override(resolve_recipe("small", "spatial"), flip=flip)
        plan = plan_training(config, manifest=run, out_dir=tmp_path, split="1", extraction={})
        notify_of_lists(plan, said.append)
        assert any("turn_left and turn_right; their mirrored clips get" in line for line in said) == told
