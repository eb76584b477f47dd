import json
import os
import shutil
import signal

import mlx.core as mx
import pytest

import calibzarr
from calibzarr.errors import StoreError
from calibzarr.export import tuning
from tests.support.measuring import measure
from tests.support.stores import snapshot

pytestmark = pytest.mark.usefixtures("loaded_once")

OPTIONS = {"bits_per_weight": 3.5, "rounding": "nearest"}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def untuned(to_quantize, tiny, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("calibzarr.models.registry.load", lambda name: tiny)
        out = tmp_path_factory.mktemp("untuned") / "out"
        return calibzarr.quantize(to_quantize, out, **OPTIONS)


def steps(monkeypatch, number):
    """Let as many steps fit in any time."""
    monkeypatch.setattr(tuning, "steps_within", lambda *_: number)


def mean(result):
    return sum(result.output_sqnr_db.values()) / len(result.output_sqnr_db)


def test_scales_are_better_and_levels_are_the_same(to_quantize, untuned, tmp_path, monkeypatch):
    steps(monkeypatch, 12)
    result = calibzarr.quantize(to_quantize, tmp_path / "out", **OPTIONS, tune=1)
    assert result.tuned.kept
    assert result.tuned.num_steps == 12
    assert result.tuned.before_db == pytest.approx(mean(untuned))
    assert mean(result) == result.tuned.after_db > result.tuned.before_db + 0.05
    before, after = (mx.load(str(made.path / WEIGHTS)) for made in (untuned, result))
    differing = {path for path in before if not mx.array_equal(before[path], after[path])}
    assert differing
    assert all(path.endswith((".scales", ".biases")) for path in differing)
    assert "tuned in 12 steps" in (result.path / "README.md").read_text()
    assert json.loads((result.path / "config.json").read_text())["tuning"]["num_steps"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_worse_is_not_kept(to_quantize, untuned, tmp_path, monkeypatch):
    steps(monkeypatch, 2)
    monkeypatch.setattr(tuning, "LEARNING_RATE", 0.05)
    result = calibzarr.quantize(to_quantize, tmp_path / "out", **OPTIONS, tune=1)
    assert not result.tuned.kept
    assert result.output_sqnr_db == untuned.output_sqnr_db
    assert snapshot(result.path)[WEIGHTS] == snapshot(untuned.path)[WEIGHTS]
    assert "the untuned weights are kept" in (result.path / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_stopped_it_goes_on_to_the_same_bytes(to_quantize, tmp_path, monkeypatch, rounding):
    steps(monkeypatch, 7)
    options = {**OPTIONS, "rounding": rounding, "tune": 1}
    expected = calibzarr.quantize(to_quantize, tmp_path / "at once", **options)
    made, original = [], tuning._Training.step

    def stopping(self, tuner, number, learning_rate):
        made.append(number)
        if len(made) in (3, 5):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, tuner, number, learning_rate)

    monkeypatch.setattr(tuning._Training, "step", stopping)
    for _ in range(2):
        assert calibzarr.quantize(to_quantize, tmp_path / "out", **options).interrupted
        assert not (tmp_path / "out").exists()
    result = calibzarr.quantize(to_quantize, tmp_path / "out", **options)
    assert made == list(range(7))
    assert result.tuned == expected.tuned
    assert snapshot(result.path)[WEIGHTS] == snapshot(expected.path)[WEIGHTS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at once", "out"]


def test_as_many_steps_as_fit(to_quantize, tmp_path, monkeypatch):
    times = iter([0, 9, 9, 11, 11, 14])  # a first step that is slow, then one of 2 and one of 3
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: next(times))
    training = type("Training", (), {"step": lambda *_: None})()
    assert tuning.steps_within(0.5, training, None) == 15


def test_a_store_of_too_few_images_is_refused(replayed, tmp_path):
    shutil.copytree(replayed.path, tmp_path / "a.zarr")
    measure(tmp_path / "a.zarr", images=1, probes=1)
    with pytest.raises(StoreError, match=r"12 or more are needed for that, .* has 7"):
        calibzarr.quantize(tmp_path / "a.zarr", tmp_path / "out", **OPTIONS, tune=1)
    assert not (tmp_path / "out").exists()


def test_states_of_16_bits_are_refused(make_store, tmp_path):
    store = make_store(num_images=1, num_steps=1, latent_dtype="float16")
    with pytest.raises(StoreError, match="holds states in float16"):
        calibzarr.quantize(store, tmp_path / "out", **OPTIONS, tune=1)
