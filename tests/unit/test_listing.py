"""Listing: labels, splits, and the traps of the official lists."""

import re
import unicodedata
from pathlib import Path

import pytest

from stin_pipe.pipeline.listing.files import VIDEO_SUFFIXES, scan
from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.listing.hash_split import hash_side, hash_split
from stin_pipe.pipeline.listing.listing import group_key
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.workflows.terminal.extract_report import say_listing
from stin_pipe.workflows.terminal.output import Output


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


def test_ucf_lists_with_crlf_case_and_absent_videos(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    touch(videos, "HandstandPushups/v_HandStandPushups_g01_c01.avi", "Archery/v_archery_g02_c01.AVI")
    touch(videos, "Archery/not_listed.avi", "Archery/readme.md")
    lists = write(
        tmp_path / "lists",
        classInd="1 Archery\r\n2 HandstandPushups\r\n",
        trainlist01="HandstandPushups/v_HandStandPushups_g01_c01.avi 2\r\n\r\n",
        testlist01="Archery/v_Archery_g02_c01.avi\r\nArchery/v_Archery_g03_c01.avi\r\n",
        trainlist02="Archery/v_Archery_g02_c01.avi 1\r\n",
    )
    listing = list_videos(videos, splits_dir=lists)
    assert listing.dataset == "lists"  # two classes: the style of UCF101, another data set
    assert list_videos(videos, dataset="ucf101", splits_dir=lists).dataset == "ucf101"
    assert listing.classes == ("Archery", "HandstandPushups")
    assert listing.split_names == ("1", "2")
    assert (listing.num_skipped, listing.num_absent) == (1, 1)
    by_id = {video.id: video for video in listing.videos}
    archery = by_id["Archery/v_archery_g02_c01.AVI"]
    assert (archery.label, archery.splits) == (0, {"1": "test", "2": "train"})
    pushups = by_id["HandstandPushups/v_HandStandPushups_g01_c01.avi"]
    assert (pushups.label, pushups.splits, pushups.group_key) == (1, {"1": "train"}, "HandstandPushups/g01")


def test_hmdb_lists_with_codes_and_trailing_blanks(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    touch(videos, "wave/a b #1.avi", "wave/c.avi", "run/d.avi", "run/unused.avi")
    lists = write(
        tmp_path / "lists",
        wave_test_split1="a b #1.avi 1 \nc.avi 2 \n",
        wave_test_split2="a b #1.avi 2 \nc.avi 0 \n",
        run_test_split1="d.avi 1 \nunused.avi 0 \n",
        run_test_split2="d.avi 2 \nunused.avi 0 \n",
    )
    listing = list_videos(videos, splits_dir=lists)
    assert listing.classes == ("run", "wave")
    assert {video.id: dict(video.splits) for video in listing.videos} == {
        "run/d.avi": {"1": "train", "2": "test"},
        "wave/a b #1.avi": {"1": "train", "2": "test"},
        "wave/c.avi": {"1": "test"},
    }
    assert (listing.num_skipped, listing.num_absent) == (0, 0)


def test_csv_with_parts_of_files(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    touch(videos, "long.mp4", "ä/ö.mp4")
    table = tmp_path / "list.csv"
    table.write_text(
        "path,label,split,start_s,end_s\nlong.mp4,jump,train,0,2.5\nlong.mp4,run,test,2.5,\n"
        "ä/ö.mp4,run,train,,\ngone.mp4,run,train,,\n",
        encoding="utf-8",
    )
    listing = list_videos(videos, list_csv=table)
    assert [video.id for video in listing.videos] == [
        "jump/long.mp4#0-2.5",
        "run/long.mp4#2.5-",
        "run/ä/ö.mp4",
    ]
    assert [video.splits["1"] for video in listing.videos] == ["train", "test", "train"]
    assert listing.num_absent == 1


def test_parts_that_differ_late_in_their_digits_are_two_videos(tmp_path: Path) -> None:
    touch(tmp_path, "long.mp4")
    table = tmp_path / "list.csv"
    starts = (0, 12.5, 12345.67, 12345.71, 1e6, 1e-5)
    rows = "".join(f"long.mp4,K,{start!r},2000000.5\n" for start in starts)
    table.write_text(f"path,label,start_s,end_s\n{rows}")
    listing = list_videos(tmp_path, list_csv=table)
    starts_by_id = {video.id.removeprefix("K/long.mp4#"): video.start_s for video in listing.videos}
    assert starts_by_id == {
        "0-2000000.5": 0.0,
        "12.5-2000000.5": 12.5,
        "12345.67-2000000.5": 12345.67,
        "12345.71-2000000.5": 12345.71,
        "1e+06-2000000.5": 1e6,
        "1e-05-2000000.5": 1e-5,
    }


@pytest.mark.parametrize("path", ["../secret.mp4", "/etc/passwd", "a/../../secret.mp4"])
def test_a_listed_path_may_not_leave_the_videos_folder(tmp_path: Path, path: str) -> None:
    touch(tmp_path / "videos", "a.mp4")
    touch(tmp_path, "secret.mp4")
    table = tmp_path / "list.csv"
    table.write_text(f"path,label\n{path},x\n")
    with pytest.raises(StinPipeError, match="leads out of the videos folder"):
        list_videos(tmp_path / "videos", list_csv=table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "first line must name the columns"),
        ("path,label\n,x\n", ":2: path and label must not be empty"),
        ("path,label,split\na.mp4,x,maybe\n", ":2: split must be train, test or empty, got 'maybe'"),
        ("path,label,start_s,end_s\na.mp4,x,5,2\n", ":2: end_s must be > start_s, got 5 to 2"),
        ("path,label,start_s\na.mp4,x,soon\n", ":2: start_s must be seconds >= 0, got 'soon'"),
        ("path,label\na.mp4,x\na.mp4,x\n", ":3: a.mp4 was listed before"),
        ("path,label\na.mp4,x\n./a.mp4,y\n", r":3: ./a.mp4 was listed before, at .*list.csv:2; list it once"),
        (
            "path,label\na.mp4,x,extra\n",
            ":2: more cells than columns; put a value that holds a comma in quotes",
        ),
        ("path,label, PATH\na.mp4,x,b.mp4\n", "there are two columns 'path'"),
        ("path,label\na.mp4,x\nA.MP4,x\n", ":3: A.MP4 was listed before"),
        ("path,label,start_s,end_s\na.mp4,x,,2\na.mp4,x,0.0,2\n", ":3: a.mp4 was listed before"),
    ],
)
def test_bad_csv_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    touch(tmp_path / "videos", "a.mp4")
    table = tmp_path / "list.csv"
    table.write_text(content)
    with pytest.raises(StinPipeError, match=message):
        list_videos(tmp_path / "videos", list_csv=table)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"trainlist01": "NoSlash.avi 1\n"}, "trainlist01.txt:1: expected Class/video"),
        ({"trainlist01": "A/x.avi 1\n", "testlist01": "A/x.avi\n"}, "both train and test of split 1"),
        ({"trainlist01": "A/x.avi 1\n", "classInd": "1 B\n"}, "class 'A' is not in"),
        ({"trainlist01": "A/x.avi 1\n", "classInd": "one A\n"}, "classInd.txt:1: expected a number"),
        ({"A_test_split1": "x.avi 7\n"}, "A_test_split1.txt:1: expected `name 0`"),
        ({"notes": "hello\n"}, "no split lists"),
    ],
)
def test_bad_lists_name_file_and_line(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    touch(tmp_path / "videos", "A/x.avi")
    with pytest.raises(StinPipeError, match=message):
        list_videos(tmp_path / "videos", splits_dir=write(tmp_path / "lists", **lists))


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(StinPipeError, match=r"videos folder .*gone does not exist"):
        list_videos(tmp_path / "gone")
    with pytest.raises(StinPipeError, match="no video files"):
        list_videos(tmp_path)
    touch(tmp_path, "loose.mp4")
    with pytest.raises(StinPipeError, match="1 video files but no class folders"):
        list_videos(tmp_path)
    with pytest.raises(StinPipeError, match="needs its split lists"):
        list_videos(tmp_path, dataset="ucf101")


def test_a_csv_excludes_split_lists_and_a_data_set(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4")
    table = tmp_path / "list.csv"
    table.write_text("path,label\na/1.mp4,x\n")
    lists = write(tmp_path / "lists", trainlist01="a/1.mp4 1\n")
    with pytest.raises(ValueError, match=r"--list .*list.csv and --splits exclude each other"):
        list_videos(tmp_path, list_csv=table, splits_dir=lists, dataset="ucf101")
    with pytest.raises(ValueError, match=r"--list .*list.csv and --dataset folder exclude each other"):
        list_videos(tmp_path, list_csv=table, dataset="folder")


def test_files_of_one_name_in_several_folders_of_a_class_are_several_videos(tmp_path: Path) -> None:
    touch(tmp_path, "train/K/x.avi", "val/K/x.avi", "val/K/y.avi")
    table = tmp_path / "list.csv"
    table.write_text("path,label,split\ntrain/K/x.avi,K,train\nval/K/x.avi,K,test\nval/K/y.avi,K,test\n")
    listing = list_videos(tmp_path, list_csv=table)
    assert {video.id: video.path for video in listing.videos} == {
        "K/train/K/x.avi": "train/K/x.avi",
        "K/val/K/x.avi": "val/K/x.avi",
        "K/y.avi": "val/K/y.avi",
    }


def test_empty_cells_and_a_column_of_row_numbers_do_no_harm(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b, c.mp4")
    table = tmp_path / "list.csv"
    table.write_text(',path,label\n0,a.mp4,x,,\n1,"b, c.mp4",x\n')
    assert [video.path for video in list_videos(tmp_path, list_csv=table).videos] == ["a.mp4", "b, c.mp4"]


def test_the_page_names_the_endings_of_files_that_are_taken() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "own-videos.md").read_text(encoding="utf-8")
    match = re.search(r"Files that end in ([\w\s,]+?) are\s+read", page)
    assert match is not None
    assert {f".{name}" for name in re.findall(r"\w+", match[1].replace(" or ", ", "))} == VIDEO_SUFFIXES


def test_links_to_folders_are_followed_but_not_around(tmp_path: Path) -> None:
    videos, other = tmp_path / "videos", tmp_path / "other"
    touch(other, "1.mp4", "deep/2.mp4")
    for name in (f"{index:02d}" for index in range(25)):
        touch(videos, f"{name}/1.mp4")
        (videos / name / "up").symlink_to("..")
    (videos / "linked").symlink_to(other)
    (other / "deep" / "self").symlink_to(".")
    (videos / "also").symlink_to(other)
    found = [str(path) for path in scan(videos)]
    assert len(found) == 29
    assert found[-4:] == ["also/1.mp4", "also/deep/2.mp4", "linked/1.mp4", "linked/deep/2.mp4"]


def test_names_are_found_in_either_form_of_unicode(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Größe") for form in ("NFC", "NFD"))
    videos = tmp_path / "videos"
    touch(videos, f"{apart}/{apart}_1.avi", f"{apart}/2.avi")
    lists = write(tmp_path / "lists", trainlist01=f"{composed}/{composed}_1.avi 1\n{composed}/2.avi 1\n")
    listing = list_videos(videos, splits_dir=lists)
    assert sorted(video.path for video in listing.videos) == [f"{apart}/2.avi", f"{apart}/{apart}_1.avi"]
    assert (listing.num_absent, listing.classes) == (0, (composed,))
    table = tmp_path / "list.csv"
    table.write_text(f"path,label\n{composed}/{composed}_1.AVI,x\n{composed}/2.avi,{composed}\nno/2.avi,x\n")
    listing = list_videos(videos, list_csv=table)
    assert {video.id: video.path for video in listing.videos} == {
        f"x/{composed}/{composed}_1.AVI": f"{apart}/{apart}_1.avi",
        f"{composed}/2.avi": f"{apart}/2.avi",
    }
    assert listing.absent == ("x/no/2.avi",)
    assert list_videos(videos, classes=(composed,)).classes == (apart,)
    touch(videos, f"{apart}/{composed}_1.avi")
    with pytest.raises(StinPipeError, match=r"the list could mean .*_1.avi and .*_1.avi; keep one of them"):
        list_videos(videos, list_csv=table)


def test_classes_and_limit(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{index}.mp4" for name in "abc" for index in range(10)))
    listing = list_videos(tmp_path, classes=("c", "a"), limit=4)
    assert listing.classes == ("a", "c")
    assert sorted({video.label for video in listing.videos}) == [0, 1]
    assert len(listing.videos) == 4
    assert listing.num_skipped == 10
    assert {video.splits["1"] for video in listing.videos} == {"train", "test"}
    with pytest.raises(ValueError, match="no class 'x' in this data set; it has: a, b, c"):
        list_videos(tmp_path, classes=("x",))


def test_a_misspelt_class_is_guessed(tmp_path: Path) -> None:
    touch(tmp_path, "PushUps/1.mp4", "PullUps/1.mp4", "Swing/1.mp4")
    with pytest.raises(ValueError, match="no class 'Pushups' in this data set; did you mean PushUps"):
        list_videos(tmp_path, classes=("Pushups",))


def test_files_that_match_globs(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/v_{name}_g{group:02d}.mp4" for name in "ab" for group in range(1, 12)))
    listing = list_videos(tmp_path, match=("*_g0[1-3].mp4", "b/*_g11*"))
    assert [video.path for video in listing.videos] == [
        *(f"{name}/v_{name}_g0{group}.mp4" for name in "a" for group in (1, 2, 3)),
        *(f"b/v_b_g{group}.mp4" for group in ("01", "02", "03", "11")),
    ]
    assert listing.classes == ("a", "b") and listing.num_skipped == 15
    with pytest.raises(ValueError, match=r"--match 'v_a' matches none of 22 videos; .*; try '\*v_a\*'"):
        list_videos(tmp_path, match=("v_a",))
    with pytest.raises(ValueError, match=r"path or file name, such as 'a/v_a_g01\.mp4'$"):
        list_videos(tmp_path, match=("*.mp5",))


def test_absent_videos_are_named_within_the_kept_classes(tmp_path: Path) -> None:
    touch(tmp_path / "v", "a/1.avi", "b/1.avi")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "trainlist01.txt").write_text("a/1.avi 1\na/2.avi 1\nb/1.avi 2\n")
    (tmp_path / "lists" / "testlist01.txt").write_text("b/3.avi\na/0.avi\n")
    whole = list_videos(tmp_path / "v", splits_dir=tmp_path / "lists")
    assert whole.absent == ("a/0.avi", "a/2.avi", "b/3.avi") and whole.num_absent == 3
    part = list_videos(tmp_path / "v", splits_dir=tmp_path / "lists", classes=("a",))
    assert part.absent == ("a/0.avi", "a/2.avi")


def test_hash_split_is_stable_and_covers_both_sides() -> None:
    ids = [f"class/{index}.mp4" for index in range(200)]
    sides = hash_split(ids)
    assert 0.2 < sum(side == "test" for side in sides.values()) / 200 < 0.4
    assert all(hash_split(ids[:100])[name] == sides[name] for name in ids[10:90])
    assert set(hash_split(["a", "b"]).values()) == {"train", "test"}
    assert hash_split(["alone"]) == {"alone": hash_side("alone")}


def test_group_keys_of_both_data_sets() -> None:
    assert group_key("Archery", "v_Archery_g07_c03.avi") == "Archery/g07"
    assert group_key("brush_hair", "April_09_brush_hair_u_nm_np1_ba_goo_0.avi") == "April_09"
    assert group_key("wave", "holiday.mp4") is None


@pytest.mark.shared_data
def test_official_lists_and_clips(shared_data: Path) -> None:
    splits = shared_data / "splits"
    ucf = list_videos(shared_data / "clips/ucf101", splits_dir=splits / "ucf101")
    assert (len(ucf.classes), len(ucf.videos), ucf.num_absent) == (101, 3, 13_317)
    expected = {"1": "test", "2": "train", "3": "train"}
    for video in ucf.videos:
        assert dict(video.splits) == expected
        assert ucf.classes[video.label] == video.class_name == video.id.split("/")[0]
    hmdb = list_videos(shared_data / "clips/hmdb51", splits_dir=splits / "hmdb51")
    assert (len(hmdb.classes), len(hmdb.videos), hmdb.num_absent) == (51, 2, 6_764)
    brush = hmdb.videos[0]
    assert (brush.class_name, dict(brush.splits)) == (
        "brush_hair",
        {"1": "train", "2": "train", "3": "test"},
    )


def test_a_csv_in_another_encoding_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "carré.mp4").write_bytes(b"x")
    for encoding, is_refused in (("utf-8", False), ("latin-1", True)):
        (tmp_path / "list.csv").write_text("path,label\ncarré.mp4,a\n", encoding=encoding)
        if is_refused:
            with pytest.raises(
                StinPipeError, match=r"list\.csv:2: carr\\xe9\.mp4 is not in the folder.*save"
            ):
                list_videos(tmp_path, list_csv=tmp_path / "list.csv")
        else:
            assert len(list_videos(tmp_path, list_csv=tmp_path / "list.csv").videos) == 1
    (tmp_path / "list.csv").write_text("path;label\ncarré.mp4;a\n")
    with pytest.raises(StinPipeError, match="found: path;label; separate them with commas"):
        list_videos(tmp_path, list_csv=tmp_path / "list.csv")


def test_a_class_that_cannot_be_judged_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        "path,label,split",
        *(f"{name}{side}.mp4,{name},{side}" for name in "ab" for side in ("train", "test")),
    ]
    for row in [*rows, "c.mp4,c,train"]:
        (tmp_path / row.split(",")[0]).write_bytes(b"x")
    params = ExtractParams(size=None, short_side=32, bound_px=5.0, flow_backend="cpu")
    for more, told in ((["c.mp4,c,train"], True), ([], False)):
        (tmp_path / "list.csv").write_text("\n".join([*rows, *more]))
        listing = list_videos(tmp_path, list_csv=tmp_path / "list.csv")
        say_listing(Output(as_json=False, command="extract"), listing, params)
        assert (
            "split 1 has no test video of c; such classes cannot be evaluated" in capsys.readouterr().err
        ) == told


def test_classes_that_differ_in_case_or_form_of_unicode_alone_are_named(tmp_path: Path) -> None:
    composed, apart = "Pok\u00e9", "Poke\u0301"
    for name in ("Walk", "walk", composed, apart, "Run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.mp4").write_bytes(b"x")
    notes = list_videos(tmp_path).notes
    assert len(notes) == 2
    assert "'Walk' and 'walk' are two classes, but differ only in case" in notes[1]
    assert repr(apart) in notes[0] and repr(composed) in notes[0]


def test_what_is_left_out_is_counted_by_kind_and_a_folder_without_videos_is_named(tmp_path: Path) -> None:
    for name in (
        "walk/1.mp4",
        "walk/notes.txt",
        "walk/.2.mp4",
        "walk/a/b/3.mp4",
        "fall/1.webp",
        "fall/2.webp",
        "top.avi",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listing = list_videos(tmp_path)
    assert [video.path for video in listing.videos] == ["walk/1.mp4"]
    assert {item.kind.split(",")[0]: (item.count, item.example) for item in listing.left_out} == {
        "videos in no list": (2, "top.avi"),
        ".txt files": (1, "walk/notes.txt"),
        ".webp files": (2, "fall/1.webp"),
        "hidden videos": (1, "walk/.2.mp4"),
    }
    assert listing.notes == (
        "the folder fall holds 2 files, but none with the ending of a video, so it is no class",
    )


def test_videos_one_folder_deeper_are_recordings_of_their_class(tmp_path: Path) -> None:
    for group in range(9):
        for clip in range(3):
            path = tmp_path / "shoot" / f"v_{group}" / f"{clip}.mpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    listing = list_videos(tmp_path)
    assert (listing.classes, len(listing.videos), listing.num_skipped) == (("shoot",), 27, 0)
    sides = {(video.group_key, video.splits["1"]) for video in listing.videos}
    assert len(sides) == 9 and {side for _, side in sides} == {"train", "test"}
    assert "CLASS/GROUP/VIDEO" in listing.notes[0]


def test_folders_of_sides_do_not_become_classes(tmp_path: Path) -> None:
    for name in ("train/walk/1.mp4", "val/walk/2.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(StinPipeError, match=r"the folders train and val look like sides .*--list"):
        list_videos(tmp_path)
