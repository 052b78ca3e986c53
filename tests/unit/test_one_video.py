"""One video outside of any run: whatever its name is."""

import os
import shutil
from pathlib import Path

import pytest

from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.workflows.prediction.one_video import VideoFile, make_one_video_run

PARAMS = ExtractParams(
    size=(48, 32), short_side=None, bound_px=5.0, flow_backend="cpu", flow={"num_scales": 1}, codec="jpeg"
)


@pytest.mark.parametrize(
    "name", [b"not utf-8 \xff\xfe.avi", "surrogate \udcff.avi".encode("utf-8", "surrogateescape")]
)
def test_a_name_that_is_not_utf_8_goes_into_a_shard_as_text(made_videos, tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    shutil.copy(made_videos.videos / "red-up" / "v_red-up_00.avi", path)
    (tmp_path / "run").mkdir()
    run = make_one_video_run(
        tmp_path / "run", VideoFile(path=path, timeout_s=60), classes=("a", "b"), params=PARAMS
    )
    assert run.video.id.encode().decode() == run.video.id and "\\xff" in run.video.id
    assert run.reader().read_rgb(run.video.id, [0]).shape == (1, 32, 48, 3)
