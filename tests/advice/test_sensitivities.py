import shutil

import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.advice import sensitivities
from calibzarr.models import registry
from calibzarr.storage.manifest import read_root

pytestmark = pytest.mark.slow


NUM_STEPS = 4


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny):
    """A store with sensitivities at its last two calls alone."""
    path = tmp_path_factory.mktemp("measured") / "a.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: tiny)
        calibzarr.build(path, num_images=1, num_steps=NUM_STEPS)
        calibzarr.collect(path, steps="all")
        calibzarr.sensitivity(path, images=1, probes=2, steps=[1, 3])
    return path


def test_energies_are_those_of_a_loop(measured):
    """Of 4 calls, 0 is early, 1 and 2 are mid, 3 is late, and the final state is no call."""
    found = sensitivities.of_store(read_root(measured))
    dataset = xr.open_zarr(measured, chunks=None).load()
    assert found.phase.values.tolist() == ["early", "mid", "late"]
    assert (found[["activations", "weights"]].sel(phase="early").to_array() == 0).all()
    width = -np.diff(dataset.sigma.values.astype(float))
    power = dataset.output_power.values[:, 0]
    for what, quantizer in sensitivities.QUANTIZERS.items():
        kind = quantizer.split("-")[0]
        values = dataset[f"{kind}_sensitivity"].sel(quantizer=quantizer).fillna(0).values
        for row, layer in enumerate(dataset.layer.values):
            counted = kind == "weight" or dataset.input_group.values[row] == layer
            mid = (width[1] + width[2]) * power[0] * values[row, 0] * counted
            late = width[3] * power[1] * values[row, 1] * counted
            np.testing.assert_allclose(found[what].values[row, 1:], [mid, late], rtol=1e-5)


def test_descriptions_are_shares_with_the_greatest_first(measured):
    found = sensitivities.of_store(read_root(measured))
    description = sensitivities.describe(found)
    assert (description["images"], description["probes"]) == (1, 2)
    for what in sensitivities.QUANTIZERS:
        for shares in (description[what][by] for by in ("layers", "kinds", "phases")):
            assert sum(shares.values()) == pytest.approx(1)
        values = [*description[what]["layers"].values()]
        assert values == sorted(values, reverse=True)
        assert description[what]["phases"]["early"] == 0
        share = description[what]["kinds"]["mlp.fc1"]
        of_kind = found[what].values[(found.kind == "mlp.fc1").values].sum()
        assert share == pytest.approx(of_kind / found[what].values.sum())
    errors = [*description["unclear"].values()]
    assert errors == sorted(errors, reverse=True)
    assert all(error > 1 for error in errors)


def test_some_layers_have_their_shares_of_the_whole(measured):
    found = sensitivities.of_store(read_root(measured))
    whole, names = sensitivities.describe(found), found.layer.values[5:9]
    part = sensitivities.describe(found, names)
    for what in sensitivities.QUANTIZERS:
        shares = whole[what]["layers"]
        expected = {name: shares[name] for name in names if name in shares}
        assert part[what]["layers"] == pytest.approx(expected)
        assert sum(part[what]["phases"].values()) == pytest.approx(sum(expected.values()))
    assert set(part["unclear"]) <= set(names)


def test_people_are_told_the_shares_and_what_would_help(measured):
    root = read_root(measured)
    description = sensitivities.describe(sensitivities.of_store(root))
    lines = [str(line) for line in sensitivities.sentences(root, description)]
    assert lines[0].startswith("the output's error with activations at 4 bits (activation-tensor")
    assert any("by phase: early 0%, mid" in line for line in lines)
    assert "standard error of" in lines[-1]
    assert f"calibzarr.sensitivity('{measured}', images=1, probes=4)" in lines[-1]


def test_without_sensitivities_it_says_how_to_measure_them(replayed):
    root = read_root(replayed.path)
    assert sensitivities.of_store(root) is None
    (line,) = map(str, sensitivities.sentences(root, None))
    assert line.endswith(f"measure it with: calibzarr.sensitivity('{replayed.path}')")


def test_the_commands_measure_show_and_go_on(run, measured, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(measured, path)
    code, out, err = run("sensitivity", path, "--images", 1, "--probes", 2, "--steps", "1,3")
    assert code == 0
    assert "0 backward passes" in err
    assert "sensitivities of 60 layers from 1 images at 2 steps, 2 probes" in out
    assert f"for less: calibzarr sensitivity {path} --images 1 --probes 4" in out
    assert f"look at them with: calibzarr analyze {path}" in out
    code, out, err = run("analyze", path, "--top", 1)
    assert "by phase: early 0%" in out
    code, out, err = run("info", path)
    assert "1 images, 2 probes, steps 1, 3" in out
    for wrong, message in (
        (("--steps", "4"), "--steps must be calls from 0 to 3, got 4; the final state is no call"),
        (("--probes", 0), "0 is not in the range x>=1"),
        (("--steps", "first"), "'first' is not 6, key, or calls such as 4,12,20"),
        (("--clip", "best"), "'best' is not one of"),
        (("--steps", "0"), "cannot be added to with [0]; measure anew with: calibzarr sensitivity"),
    ):
        code, out, err = run("sensitivity", path, *wrong)
        assert code in (1, 2)
        assert message in err
        assert err.count("\n") == 1 or "Usage" not in err
