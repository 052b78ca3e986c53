"""JSON of other hands becomes a dataclass exactly, or an error that names key and value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from stin_pipe.stin.shards.from_json import from_json


@dataclass(frozen=True, kw_only=True)
class Square:
    name: Literal["square"] = "square"
    side: float


@dataclass(frozen=True, kw_only=True)
class Dots:
    name: Literal["dots"] = "dots"
    count: int = 3


@dataclass(frozen=True, kw_only=True)
class Picture:
    shape: Square | Dots
    title: str
    visible: bool = True
    colour: Literal["red", "blue"] | Literal["none"] = "none"
    weights: tuple[float, ...] = ()
    note: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


WHOLE = {"shape": {"name": "square", "side": 2}, "title": "a"}


def test_values_survive_the_way_through_json():
    for picture in (
        Picture(shape=Square(side=2.5), title="a", weights=(1.0, 0.5), more={"x": [1]}),
        Picture(shape=Dots(count=4), title="b", visible=False, colour="red", note="c"),
    ):
        assert from_json(Picture, asdict(picture)) == picture
    assert from_json(Picture, WHOLE) == Picture(shape=Square(side=2), title="a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": 3}, "title must be text, got 3"),
        ({"title": None}, "title must be text, got None"),
        ({"note": 3}, "note must be text, got 3"),
        ({"visible": 1}, "visible must be true or false, got 1"),
        ({"colour": "green"}, "colour must be one of 'red', 'blue', 'none', got 'green'"),
        ({"colour": ["red"]}, "colour must be one of"),
        ({"weights": 1.0}, "weights must be a list, got 1.0"),
        ({"weights": "12"}, "weights must be a list, got '12'"),
        ({"weights": [1, "a"]}, "each of weights must be a number, got 'a'"),
        ({"weights": [True]}, "each of weights must be a number, got True"),
        ({"weights": [float("nan")]}, "each of weights must be finite, got nan"),
        ({"more": []}, "more must be an object, got []"),
        ({"titel": "a"}, "it has an unknown key 'titel'; did you mean title?"),
        ({"shape": []}, "shape must be an object, got []"),
        ({"shape": {"side": 1}}, "shape must have the name 'square' or 'dots', got None"),
        ({"shape": {"name": ["square"], "side": 1}}, "shape must have the name 'square' or 'dots'"),
        ({"shape": {"name": "square"}}, "shape has no 'side'"),
        ({"shape": {"name": "square", "side": True}}, "side must be a number, got True"),
        ({"shape": {"name": "square", "side": float("inf")}}, "side must be finite, got inf"),
        ({"shape": {"name": "square", "side": 10**400}}, "side must be finite, got 1000"),
        ({"shape": {"name": "dots", "count": 2.0}}, "count must be a whole number, got 2.0"),
        ({"shape": {"name": "dots", "count": False}}, "count must be a whole number, got False"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError) as caught:
        from_json(Picture, {**WHOLE, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, "text", [], [WHOLE]])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(ValueError, match="it must be an object, got"):
        from_json(Picture, value)
