"""Estimates of memory against what processes took; limits, in processes of their own."""

import re
import subprocess
import sys

import numpy as np
import pytest

from calibzarr import memory
from calibzarr.errors import OptionError
from calibzarr.models.memory import SizedModel, check_batch
from tests.support.numpy_model import Mixer

_SIZES = {"image_size": 64, "num_steps": 2, "guided": True}
_REMEDY = {"remedy": "use "}

_BUILD = """
import sys
from pathlib import Path
import calibzarr
from calibzarr.models import registry

def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)[name].split()[0])

model = registry.load("tiny")
registry.load = lambda name: model
before = field("VmRSS")
calibzarr.build(sys.argv[1], num_images=64, num_steps=2, batch_size=64)
print(before, field("VmHWM"), model.batch_bytes(64, 64, 2, guided=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_estimate_is_within_a_factor_of_two_of_what_a_build_takes(tmp_path):
    command = [sys.executable, "-c", _BUILD, tmp_path / "a.zarr"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, peak, estimate = map(int, printed.split())
    assert peak - before > 1e8
    assert 0.5 < estimate / (peak - before) < 2


def test_a_batch_that_does_not_fit_is_refused_with_both_numbers(tiny, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    with pytest.raises(OptionError) as error:
        check_batch(tiny, 10**5, **_SIZES, **_REMEDY)
    found = re.fullmatch(
        r"batch_size 100000 takes about ([\d.]+) GB of memory, and 1.0 GB are free; use (\d+) or "
        "less",
        str(error.value),
    )
    assert float(found[1]) == pytest.approx(tiny.batch_bytes(10**5, **_SIZES) / 1e9, abs=0.06)
    fitting = int(found[2])
    assert tiny.batch_bytes(fitting, **_SIZES) <= 10**9 < tiny.batch_bytes(fitting + 1, **_SIZES)
    check_batch(tiny, fitting, **_SIZES, **_REMEDY)
    with pytest.raises(OptionError, match=r"takes about 4\.0 GB .* 1\.0 GB are free"):
        check_batch(tiny, fitting, **_SIZES, **_REMEDY, times=4)


def test_one_image_is_tried_whatever_is_free(tiny, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 0)
    check_batch(tiny, 1, **_SIZES, **_REMEDY)
    with pytest.raises(OptionError, match="use 1 or less"):
        check_batch(tiny, 2, **_SIZES, **_REMEDY)


def test_a_model_that_does_not_tell_is_not_asked(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 0)
    assert not isinstance(Mixer(), SizedModel)
    check_batch(Mixer(), 10**6, **_SIZES, **_REMEDY)


def test_the_estimate_grows_with_what_it_is_of(tiny):
    sizes = {"num_images": 4, **_SIZES}
    least = tiny.batch_bytes(**sizes)
    for name in ("num_images", "image_size", "num_steps"):
        assert tiny.batch_bytes(**{**sizes, name: 2 * sizes[name]}) > least
    assert tiny.batch_bytes(**{**sizes, "guided": False}) < least
    counts = np.array([tiny.batch_bytes(n, **_SIZES) for n in (1, 2, 3)])
    assert np.diff(counts, n=2).tolist() == [0]
