import json
from dataclasses import replace

import pytest

from calibzarr.legacy import marker
from calibzarr.legacy.marker import Marker


def test_what_is_written_is_read(tmp_path):
    written = Marker({"model": "tiny", "created": "today"}, "nhwc", (3, 1))
    marker.write(tmp_path, written)
    read = marker.read(tmp_path)
    assert read == replace(written, images=(1, 3))
    assert read.is_of(written)
    assert not read.is_of(replace(written, layout="nchw"))
    assert not read.is_of(replace(written, store={"model": "tiny", "created": "tomorrow"}))


@pytest.mark.parametrize(
    "change", [{"store": 3}, {"layout": "chw"}, {"images": None}, {"images": ["1"]}]
)
def test_a_marker_that_says_anything_else_is_none(tmp_path, change):
    marker.write(tmp_path, Marker({}, "nchw"))
    file = tmp_path / marker.NAME
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert marker.read(tmp_path) is None
    file.unlink()
    assert marker.read(tmp_path) is None
