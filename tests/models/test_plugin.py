import json
import os
import subprocess
import sys

import numpy as np
import pytest

import calibzarr
from calibzarr.errors import OptionError
from calibzarr.integrity.verification import verify
from calibzarr.models import builtin, registry
from calibzarr.statistics.histogram import BINS
from calibzarr.storage import store
from calibzarr.storage.manifest import read_root
from tests.support import numpy_model
from tests.support.files import ROOT
from tests.support.stores import open_strictly

# As on a machine that has neither: importing them fails.
WITHOUT_FRAMEWORKS = """
import sys
sys.modules.update(dict.fromkeys(("mlx", "mlx.core", "diffusionkit")))
from calibzarr import cli
for line in sys.stdin.read().splitlines():
    sys.argv = ["calibzarr", *line.split()]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
"""


def install(directory, name, entry_points):
    """What an installed package leaves beside its modules."""
    information = directory / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{model} = {value}" for model, value in entry_points]
    (information / "entry_points.txt").write_text("\n".join(["[calibzarr.models]", *lines, ""]))


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A directory that packages are installed in."""
    directory = tmp_path / "packages"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    return directory


@pytest.fixture
def mixer(packages):
    install(packages, "mixing", [("mixer", "tests.support.numpy_model:ENTRY")])
    return packages


def raw_values(path, name, step, images):
    """What enters a layer at a step, by the model's arithmetic, shape (image, pixel, feature)."""
    dataset, model = open_strictly(path), numpy_model.Mixer()
    seen = {}
    model._observe = lambda layer, values: seen.setdefault(layer, []).append(values)
    for image in images:
        conditioning = model.encode([str(dataset.prompt.values[image])], 0)
        with model.denoiser(conditioning, model.schedule(6)) as denoise:
            denoise(model.from_numpy(dataset.latents.values[[image], step]), step)
    return np.concatenate(seen[name])


@pytest.mark.slow
def test_a_model_from_elsewhere_goes_the_whole_way(mixer, tmp_path):
    path, file = tmp_path / "a.zarr", tmp_path / "config.json"
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\nfour\n")
    commands = f"""
        models
        build {path} --model mixer --prompts {tmp_path}/prompts.txt --seed 5 --batch-size 2
        collect {path} --steps all
        analyze {path}
        export-config {path} {file}
        verify {path} --model
    """
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_FRAMEWORKS],
        input="\n".join(line.strip() for line in commands.splitlines() if line.strip()),
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (mixer, ROOT))),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "pixels mixed by NumPy" in result.stdout

    manifest = read_root(path).attributes
    assert (manifest["model"], manifest["cfg_weight"]) == ("mixer", 0)
    assert (manifest["noise"], manifest["schedule"]) == ("numpy.random.PCG64", "mixer.square")
    dataset = open_strictly(path)
    assert dataset.latents.shape == (4, 7, 3, 4, 4)
    assert dataset.observed.all()
    np.testing.assert_array_equal(
        dataset.latents[2, 0], 4 * numpy_model.NOISE.draw(7, (3, 4, 4)).astype(np.float32)
    )
    for name, step in (("mix1.out", 3), ("mix0.value", 0), ("words", 6)):
        values = raw_values(path, name, step, range(4))
        row = dataset.sel(layer=name).isel(step=step)
        assert row.value_count == values.size
        assert (row.value_min, row.value_max) == (values.min(), values.max())
        np.testing.assert_array_equal(row.histogram, BINS.counts(values.ravel()))
        np.testing.assert_allclose(row.value_mean, values.mean(dtype=np.float64), rtol=1e-6)
        assert int(row.weight_histogram.sum()) == numpy_model.Mixer().weights[name].size
    layers = json.loads(file.read_text())["layer_configs"]
    assert {"mix0.gate", "mix0.value", "words"} <= layers.keys()
    gate, value = (layers[f"mix0.{name}"]["weight_bits"] for name in ("gate", "value"))
    assert gate == value


def test_checks_follow_the_names_in_the_manifest(mixer, tmp_path):
    path, prompts = tmp_path / "a.zarr", tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    calibzarr.build(path, model="mixer", prompts=prompts)
    assert not verify(path).findings
    dataset = open_strictly(path)
    wrong_noise = dataset.seed.values[::-1].copy()
    store.array(store.open_group(path), "seed")[:] = wrong_noise
    messages = [str(finding) for finding in verify(path).findings if finding.check == "noise"]
    assert len(messages) == 2
    assert any("but of seed 1, which is image 0's" in message for message in messages)


def test_a_store_of_a_model_that_is_not_here_is_checked_as_far_as_it_can_be(mixer, tmp_path):
    path, prompts = tmp_path / "a.zarr", tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    calibzarr.build(path, model="mixer", prompts=prompts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [entry for entry in sys.path if entry != str(mixer)])
        assert "mixer" not in registry.names()
        assert not verify(path).findings
        with pytest.raises(OptionError, match="unknown model 'mixer'"):
            calibzarr.collect(path)


def test_names_are_listed_without_an_import(packages):
    install(packages, "lazy", [("lazy", "a_module_that_does_not_exist:ENTRY")])
    assert registry.names() == (*builtin.MODELS, "lazy")
    assert "a_module_that_does_not_exist" not in sys.modules


def test_models_that_do_not_work_are_named_and_hurt_no_other(mixer, packages, run):
    (packages / "raising.py").write_text("raise RuntimeError('of its own')\n")
    (packages / "other_things.py").write_text("ENTRY = 3\n")
    broken = {
        "missing": "a_module_that_does_not_exist:ENTRY",
        "raising": "raising:ENTRY",
        "nothing": "other_things:ENTRY",
        "renamed": "tests.support.numpy_model:ENTRY",
        "tiny": "tests.support.numpy_model:ENTRY",
    }
    install(packages, "broken", broken.items())
    for number in (1, 2):
        install(packages, f"same{number}", [("twice", "tests.support.numpy_model:ENTRY")])
    code, out, err = run("models")
    assert code == 0
    for name in (*builtin.MODELS, "mixer"):
        assert any(line.split()[:1] == [name] for line in out.splitlines())
    assert out.count("tiny") == 1
    lines = err.splitlines()
    for name, reason in {
        "missing": "No module named 'a_module_that_does_not_exist'",
        "raising": "RuntimeError: of its own",
        "nothing": "other_things:ENTRY is no ModelEntry",
        "renamed": "its entry is named 'mixer'",
        "tiny": "calibzarr's own, and not that of broken",
        "twice": "of same1 (tests.support.numpy_model:ENTRY) and same2",
    }.items():
        assert any(name in line and reason in line for line in lines), name
    assert len(lines) == 6
    assert registry.find("mixer") is numpy_model.ENTRY
    assert registry.find("tiny") is builtin.TINY
    for name in ("missing", "twice"):
        with pytest.raises(OptionError, match=f"'{name}'"):
            registry.find(name)


def test_a_model_that_is_not_what_its_entry_says_is_named_before_anything_is_made(
    mixer, monkeypatch, tmp_path
):
    monkeypatch.delattr(numpy_model.Mixer, "to_numpy")
    with pytest.raises(TypeError, match="the model 'mixer' is no Model: it has no to_numpy"):
        registry.load("mixer")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(mixer)
    monkeypatch.setattr(numpy_model.Mixer, "name", "another", raising=False)
    monkeypatch.setattr(numpy_model.Mixer, "__init__", lambda self: None)
    with pytest.raises(TypeError, match="the model 'mixer' calls itself 'another'"):
        registry.load("mixer")
