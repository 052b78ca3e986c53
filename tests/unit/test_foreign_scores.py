"""Scores of other programs: three kinds of files give the same, and what does not fit is refused by name."""

import json
import pickle

import numpy as np
import pytest

from stin_pipe.stin.results.foreign_scores import kind_of, read_foreign_scores, read_labelled_scores
from stin_pipe.stin.results.score_files import ScoreTable
from stin_pipe.stin.scoring.fusion import fuse
from stin_pipe.stin.scoring.scores import Scores, softmax
from stin_pipe.stin.shards.errors import StinPipeError

CLASSES = ("run", "walk", "sit")
LIST = {"run/a.avi": 0, "walk/b.avi": 1, "sit/c.avi": 2}
IDS = ["sit/c.avi", "run/a.avi", "walk/b.avi"]
TABLE = np.array([[0.5, -1, 4], [2, 0, 1], [-3, 1.5, 0]])


def read(path):
    return read_foreign_scores(path, stream="pose", labels=LIST, class_names=CLASSES)


def write_csv(path, ids=IDS, table=TABLE, labels=None, classes=CLASSES):
    header = ["id", *(["label"] if labels else []), *classes]
    rows = [
        [video_id, *([labels[row]] if labels else []), *map(str, table[row])]
        for row, video_id in enumerate(ids)
    ]
    path.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n")
    return path


def test_all_kinds_of_files_say_the_same(tmp_path):
    write_csv(tmp_path / "plain.csv")
    write_csv(tmp_path / "labels.csv", labels=["sit", "run", "walk"])
    order = [2, 0, 1]
    write_csv(tmp_path / "other_order.csv", table=TABLE[:, order], classes=[CLASSES[i] for i in order])
    np.savez(tmp_path / "plain.npz", ids=np.array(IDS), scores=TABLE)
    np.savez(
        tmp_path / "full.npz",
        ids=np.array([text.encode() for text in IDS]),
        scores=TABLE[:, order],
        labels=[0, 1, 2],  # places in the file's own classes
        classes=np.array([CLASSES[i] for i in order]),
    )
    (tmp_path / "plain.json").write_text(
        json.dumps({"ids": IDS, "scores": TABLE.tolist(), "labels": [2, 0, 1]})
    )
    own = Scores(
        ids=tuple(IDS),
        labels=np.array([2, 0, 1]),
        class_names=CLASSES,
        scores=TABLE.astype(np.float32),
        main_logits=TABLE.astype(np.float32),
        aux_logits=None,
        stream="temporal",
    )
    own.save(tmp_path / "own.npz")
    own.save(tmp_path / "own.json")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for path in files:
        found = read(path)
        assert found.ids == tuple(IDS) and found.labels.tolist() == [2, 0, 1], path
        np.testing.assert_array_equal(found.scores, TABLE.astype(np.float32), err_msg=path.name)
        assert (found.stream, found.class_names) == ("pose", CLASSES)
        assert found.protocol["values"] == "before softmax"


def test_probabilities_are_fused_as_their_logarithms(tmp_path):
    found = read(write_csv(tmp_path / "p.csv", table=softmax(TABLE)))
    assert found.protocol["values"] == "probabilities, taken as their logarithms"
    np.testing.assert_allclose(softmax(found.scores), softmax(TABLE), rtol=1e-5)
    zeros = read(write_csv(tmp_path / "z.csv", table=np.eye(3)))
    assert np.isfinite(zeros.scores).all()


RIGHT = {"sit/c.avi": 2, "run/a.avi": 0, "walk/b.avi": 1}


@pytest.mark.parametrize("digits", [1, 2, 3, 6])
def test_probabilities_with_few_digits_turn_no_fusion_round(tmp_path, digits):
    logits = np.array([[2.0 * (column == (RIGHT[name] + 1) % 3) for column in range(3)] for name in IDS])
    sure = [[0.984 if column == RIGHT[name] else 0.008 for column in range(3)] for name in IDS]
    spatial = read(write_csv(tmp_path / "spatial.csv", table=logits))
    temporal = read(write_csv(tmp_path / "temporal.csv", table=np.round(sure, digits)))
    assert temporal.protocol["values"].startswith("probabilities")
    fused = fuse(spatial, temporal)
    assert (fused.scores.argmax(1) == fused.labels).all()


def test_many_classes_whose_small_shares_are_rounded_away_are_probabilities():
    scores = np.zeros((2, 101))
    scores[:, 0] = 0.71  # 100 others of 0.0029 each are written as 0.00
    assert kind_of(table_of(scores)) == "probabilities"
    scores[:, 0] = 0.7123456  # six digits and more leave no room for that
    assert kind_of(table_of(scores)) is None


@pytest.mark.parametrize(
    "scores",
    [
        [[0.9, 0.8, 0.1], [0.2, 0.7, 0.9]],  # independent detectors, or logits
        [[98.4, 0.4, 1.2], [2.0, 97.0, 1.0]],  # percentages
        [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]],
    ],
)
def test_scores_that_may_be_either_are_refused_unless_told(tmp_path, scores):
    assert kind_of(table_of(np.array(scores))) is None
    path = write_csv(tmp_path / "x.csv", ids=IDS, table=np.array([*scores, scores[0]]))
    with pytest.raises(StinPipeError, match=r"do not tell.*--scores-as probabilities or --scores-as logits"):
        read(path)
    for told, values in (("logits", "before softmax"), ("probabilities", "probabilities, taken as")):
        scores = read_foreign_scores(path, stream="pose", labels=LIST, class_names=CLASSES, scores_as=told)
        assert scores.protocol["values"].startswith(values)


def test_scores_beyond_0_to_1_are_logits():
    assert kind_of(table_of(np.array([[3.0, 0.5, 0.2]]))) == "logits"
    assert kind_of(table_of(np.array([[-0.1, 0.5, 0.6]]))) == "logits"


def table_of(scores):
    return ScoreTable(ids=[str(row) for row in range(len(scores))], scores=scores, labels=None, classes=None)


def test_a_third_stream_is_fused_by_its_weight(tmp_path):
    pose = read(write_csv(tmp_path / "pose.csv"))
    spatial = Scores(
        ids=tuple(LIST),
        labels=np.array([0, 1, 2]),
        class_names=CLASSES,
        scores=np.ones((3, 3), np.float32),
        main_logits=np.ones((3, 3), np.float32),
        aux_logits=None,
        stream="spatial",
    )
    fused = fuse(spatial, spatial, pose, weights=(1, 1, 2))
    np.testing.assert_allclose(fused.scores, (2 + 2 * TABLE[[1, 2, 0]]) / 4)
    with pytest.raises(ValueError, match=r"fusion weights must be 3 numbers >= 0, not all 0 \(spatial, "):
        fuse(spatial, spatial, pose, weights=(1, 1.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"ids": ["sit/c.avi", "run/a.avi", "run/a.avi"]},
            "1 videos are scored more than once: run/a.avi; correct the file and give it again",
        ),
        (
            {"ids": ["sit/c.avi", "run/a.avi", "walk/b"]},
            (
                "1 videos are not on the evaluated list (whose ids look like 'run/a.avi'): walk/b; "
                "correct the file and give it again"
            ),
        ),
        (
            {"ids": IDS[:2], "table": TABLE[:2]},
            ("1 videos of the evaluated list have no scores: walk/b.avi; correct the file and give it again"),
        ),
        (
            {"labels": ["sit", "walk", "run"]},
            (
                "2 videos have a different label in the run: run/a.avi, walk/b.avi; "
                "correct the file and give it again"
            ),
        ),
        (
            {"table": np.where(TABLE == 4, np.nan, TABLE)},
            (
                "1 videos have scores that are not finite or beyond 1e+30: sit/c.avi; "
                "correct the file and give it again"
            ),
        ),
        (
            {"table": np.where(TABLE == 4, 1e300, TABLE)},
            (
                "1 videos have scores that are not finite or beyond 1e+30: sit/c.avi; "
                "correct the file and give it again"
            ),
        ),
        (
            {"classes": ("run", "walk", "lie")},
            (
                "1 classes are not in the run: lie; 1 classes of the run are missing: sit; "
                "name the classes as the run does"
            ),
        ),
        ({"classes": ("run", "walk", "walk")}, "1 classes are named more than once: walk"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    path = write_csv(tmp_path / "s.csv", **change)
    with pytest.raises(StinPipeError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: {message}"


def test_another_number_of_classes_is_refused(tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, ids=np.array(IDS), scores=np.zeros((3, 4)))
    with pytest.raises(StinPipeError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: scores of 4 classes, but the run has 3 (run, walk, sit, ...); "
        "give the scores of the run's classes"
    )


def test_pickles_are_refused_unopened_with_a_way_out_that_works(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('the pickle ran')",))

    for name in ("s.pkl", "s.pth", "s.npz"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(StinPipeError, match="pickled files run code when they are opened"):
            read(path)
    objects = tmp_path / "objects.npz"
    np.savez(objects, ids=np.array(IDS), scores=np.array([Trap()] * 3))
    with pytest.raises(StinPipeError, match="holds pickled objects"):
        read(objects)
    # The three lines of the message, run as they are.
    path = tmp_path / "dict.pkl"
    path.write_bytes(pickle.dumps(dict(zip(IDS, TABLE, strict=True))))
    with pytest.raises(StinPipeError) as caught:
        read(path)
    lines = [line[2:] for line in str(caught.value).splitlines() if line.startswith("  ")]
    code = "\n".join(lines).replace("'dict.", f"'{tmp_path}/dict.")
    exec(code, {})  # noqa: S102
    np.testing.assert_array_equal(read(tmp_path / "dict.npz").scores, TABLE.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.csv", "name,run,walk,sit\n", "the first column must be 'id', got 'name'"),
        ("s.csv", "id,run,walk,sit\nrun/a.avi,1,2\n", "line 2 has 3 cells, the header 4"),
        (
            "s.csv",
            "id,run,walk,sit\n\nwalk/b.avi,1,2,3\nrun/a.avi,1,2,x\n",
            "line 4, video 'run/a.avi', class 'sit': a score must be a number, got 'x'",
        ),
        ("s.csv", "", "it has no first line id,label,<class>,<class>,..."),
        ("s.json", "[1]", "it holds a list where an object belongs"),
        ("s.json", "{", "it is not JSON"),
        ("s.json", '{"ids": ["a"]}', r"it has no scores \(only ids\)"),
        ("s.json", '{"ids": ["a", "b"], "scores": [[1, 2], [3]]}', "rows of numbers, one row a video"),
        ("s.json", '{"ids": ["a"], "scores": [[1], [2]]}', r"1 ids, but scores of shape \(2, 1\)"),
        ("s.json", '{"ids": [["a"]], "scores": [[1]]}', r"ids must hold names, got \['a'\]"),
        (
            "s.json",
            '{"ids": ["a"], "scores": [[1]], "classes": [["a"]]}',
            r"classes must hold names, got \['",
        ),
        (
            "s.json",
            '{"ids": ["a"], "scores": [[1]], "labels": [{}]}',
            r"labels must hold class names or numb",
        ),
        ("s.npz", "no zip", "it is not an .npz file, a zip of arrays"),
        ("s.txt", "", "scores are read from .npz, .json or .csv files, not '.txt'"),
    ],
)
def test_unreadable_files_say_what_is_wrong(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(StinPipeError, match=message):
        read(tmp_path / name)


def test_classes_that_are_numbers_are_names_too(tmp_path):
    path = tmp_path / "s.json"
    table = TABLE.tolist()
    path.write_text(json.dumps({"ids": IDS, "scores": table, "classes": [0, 1, 2], "labels": [2, 0, 1]}))
    with pytest.raises(StinPipeError, match="3 classes are not in the run: 0, 1, 2"):
        read(path)
    found = read_labelled_scores(path)
    assert (found.class_names, found.labels.tolist()) == (("0", "1", "2"), [2, 0, 1])


def test_an_absent_file_is_named(tmp_path):
    for name in ("none.csv", "none"):
        with pytest.raises(StinPipeError, match="no such score file"):
            read(tmp_path / name)
    with pytest.raises(StinPipeError, match="is a folder, not a score file"):
        read(tmp_path)


def test_an_assumed_order_of_the_classes_is_said(tmp_path):
    np.savez(tmp_path / "s.npz", ids=np.array(IDS), scores=TABLE)
    said = []
    for path in (tmp_path / "s.npz", write_csv(tmp_path / "named.csv")):
        read_foreign_scores(path, stream="pose", labels=LIST, class_names=CLASSES, notify=said.append)
    expected = "names no classes; its columns are taken to be in the run's class order (run, walk, sit)"
    assert said == [f"{tmp_path / 's.npz'}: {expected}"]
