"""Repairs; with ``pytest --long`` they are killed at 40 moments, not 8."""

import json
import os
import shutil
import signal
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

import calibzarr
from calibzarr.errors import Call, DiskFullError, OptionError, StoreError
from calibzarr.integrity.repair import repair
from calibzarr.integrity.verification import verify
from calibzarr.storage import commit, store
from calibzarr.storage.manifest import read_root
from tests.support import children
from tests.support.full_disk import fill
from tests.support.stores import open_strictly, snapshot

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, make_store):
    """A store of 3 images whose prompts and seeds are a file's; the file is beside it."""
    directory = tmp_path_factory.mktemp("repair")
    (directory / "p.csv").write_text("prompt,seed\na red circle,11\na cat,5\na blue ring,70\n")
    path = make_store(prompts=directory / "p.csv", num_steps=1, image_size=32)
    return shutil.copytree(path, directory / "whole.zarr")


@pytest.fixture
def path(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "a.zarr")


def values(path):
    return open_strictly(path).load()


def spoil(path):
    """Something for every stage of a repair."""
    (path / "zarr.json").unlink()
    (path / "latents" / "zarr.json").write_text("{")
    (path / "seed" / "c.0").write_bytes(b"")
    (path / "latents" / "c.1.0.0.0.0").write_bytes(b"torn")
    leftover = path / "decoded" / f"c.2.0.0.0.{'0' * 32}.partial"
    leftover.write_bytes(b"torn")
    os.utime(leftover, (0, 0))


def test_nothing_is_done_to_a_store_in_order(path):
    before = snapshot(path)
    result = repair(path)
    assert (result.actions, result.set_aside, result.needed) == ((), (), ())
    assert result.calls == (Call("verify", (path,)),)
    assert snapshot(path) == before


def test_dry_run_tells_all_and_changes_nothing(path):
    spoil(path)
    before = snapshot(path)
    told = repair(path, dry_run=True)
    assert snapshot(path) == before
    done = repair(path)
    assert told == done
    assert len(done.actions) == 5
    assert done.set_aside == (1,)
    assert repair(path).actions == ()


def test_damaged_files_are_kept_also_when_it_happens_again(path, whole):
    for number in range(2):
        spoil(path)
        assert repair(path).n_completed == 2
        calibzarr.build(path, resume=True)
        aside = path / "latents" / "damaged"
        end = f".{number}" if number else ""
        assert (aside / f"latents.c.1.0.0.0.0{end}").read_bytes() == b"torn"
        assert (aside / f"latents.zarr.json{end}").read_text() == "{"
    xr.testing.assert_identical(values(path), values(whole))


@pytest.mark.slow
def test_a_killed_repair_is_gone_on_with(path, whole, kills):
    copies = [path.parent / f"{number}.zarr" for number in range(kills + 1)]
    for copy in copies:
        shutil.copytree(whole, copy)
        spoil(copy)
    undisturbed = children.run(repair, copies[-1], below=copies.pop())
    assert undisturbed.code == 0
    moments = np.linspace(0, undisturbed.changes - 1, kills, dtype=int)
    for moment, copy in zip(moments, copies, strict=True):
        assert children.run(repair, copy, below=copy, signals={moment: signal.SIGKILL}).killed
        children.make_leftovers_old(copy)
        repair(copy)
        assert verify(copy).ok
        np.testing.assert_array_equal(values(copy).latents[[0, 2]], values(whole).latents[[0, 2]])
        np.testing.assert_array_equal(values(copy).seed, values(whole).seed)
        assert read_root(copy).attributes["created"] == read_root(whole).attributes["created"]
    calibzarr.build(copy, resume=True)
    xr.testing.assert_identical(values(copy), values(whole))


@pytest.mark.parametrize("after", [0, 3])
def test_a_full_disk_stops_a_repair_and_the_next_one_ends_it(path, whole, monkeypatch, after):
    spoil(path)
    with monkeypatch.context() as patch:
        fill(patch, after)
        with pytest.raises(DiskFullError, match="disk is full: what is mended stays") as error:
            repair(path, batch_size=1)
    assert error.value.message.parts[-1] == Call("repair", (path,), {"batch_size": 1})
    assert repair(path).n_completed == 2
    assert repair(path).actions == ()
    for name in ("seed", "prompt"):
        assert values(path)[name].values.tolist() == values(whole)[name].values.tolist()


def test_two_repairs_at_once_do_it_once(path, whole):
    spoil(path)
    with (
        children.running(children.command, "repair", path) as first,
        children.running(children.command, "repair", path) as second,
    ):
        assert [first().code, second().code] == [0, 0]
    calibzarr.build(path, resume=True)
    xr.testing.assert_identical(values(path), values(whole))


def test_a_seed_that_was_changed_is_not_taken_for_a_damaged_image(path, whole):
    zarr.open_group(path, mode="r+")["seed"][1] = 1000
    assert repair(path).set_aside == ()
    xr.testing.assert_identical(values(path), values(whole))


def test_copies_that_are_lost_whole_are_made_again(path):
    shutil.rmtree(path / "copies")
    assert not verify(path).ok
    assert "made an index of files, for nothing else contradicts itself" in repair(path).actions
    assert verify(path).ok
    assert not repair(path).actions


def test_a_manifest_lost_with_its_copy_is_rebuilt_with_the_model(path, whole):
    original = read_root(whole).attributes
    (path / "copies" / "root.json").unlink()
    (path / "zarr.json").write_text("")
    before = snapshot(path)
    with pytest.raises(OptionError, match="say what it was built with, by model"):
        repair(path)
    with pytest.raises(ValueError, match="image 0 is not what tiny makes with guidance weight 7"):
        repair(path, model="tiny", cfg_weight=7.0)
    assert snapshot(path) == before
    repair(path, model="tiny")
    rebuilt = read_root(path).attributes
    free = ("created", "history", "libraries", "prompt_source", "n_completed", "integrity")
    assert {k: v for k, v in rebuilt.items() if k not in free} == {
        k: v for k, v in original.items() if k not in free
    }
    assert rebuilt["n_completed"] == 3
    (path / "latents" / "c.0.0.0.0.0").unlink()
    calibzarr.build(path, resume=True)
    np.testing.assert_array_equal(values(path).latents, values(whole).latents)


def test_lost_prompts_without_a_copy_come_from_their_file(path, whole):
    (path / "copies" / "coordinates.json").unlink()
    for name in ("prompt", "seed"):
        (path / name / "c.0").unlink()
    result = repair(path)
    assert len(result.needed) == 2
    assert "by prompts" in str(result.needed[0])
    wrong = path.parent / "wrong.csv"
    wrong.write_text("prompt\na\nb\nc\n")
    with pytest.raises(ValueError, match=r"wrong\.csv is not what .* was built from"):
        repair(path, prompts=wrong)
    result = repair(path, prompts=whole.parent / "p.csv")
    assert (result.needed, result.set_aside) == ((), ())
    xr.testing.assert_identical(values(path), values(whole))
    assert verify(path).ok
    assert repair(path).actions == ()


def test_an_interrupted_change_is_finished_or_kept_aside_if_it_is_damaged(path, monkeypatch):
    monkeypatch.setattr(commit, "_apply", lambda *_: None)
    calibzarr.collect(path, num_images=2, steps=[0])
    monkeypatch.undo()
    assert "activations" not in read_root(path).attributes
    assert verify(path).ok
    assert verify(path).notes[0].startswith("a change was interrupted")
    damaged = shutil.copytree(path, path.parent / "damaged.zarr")
    result = repair(path, dry_run=True)
    assert result.actions == ("finished a change that was interrupted",)
    assert "activations" not in read_root(path).attributes
    assert repair(path) == result
    assert values(path).collected_image.sum() == 2
    assert verify(path).ok
    assert repair(path).actions == ()
    before = values(damaged)
    (damaged / "copies" / "next" / "plan.json").write_text("{")
    (action,) = repair(damaged).actions
    assert action.startswith("moved a change that was interrupted to latents/damaged")
    assert verify(damaged).ok
    xr.testing.assert_identical(values(damaged), before)


def test_variables_of_version_0_1_that_the_format_no_longer_knows_stay(path):
    calibzarr.collect(path, num_images=2, steps=[0])
    group = zarr.open_group(path)
    shape, dims = group["weight_feature_max"].shape, ("layer", "feature")
    group.create_array("recommended_shift", data=np.ones(shape, "f4"), dimension_names=dims)
    group.attrs["recommended"] = {"smoothquant_alpha": 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata, and of files beside arrays
        zarr.consolidate_metadata(path)
    before = snapshot(path)
    assert verify(path).ok
    assert repair(path).actions == ()
    assert snapshot(path) == before
    assert (values(path).recommended_shift == 1).all()
    (path / "value_mean" / "zarr.json").write_text("{")
    repair(path)
    assert verify(path).ok
    assert "recommended_shift" in values(path)
    calibzarr.collect(path, num_images=1, steps=[0, 1], force=True)  # they are of what was before
    assert "recommended_shift" not in values(path)
    assert verify(path).ok
    assert repair(path).actions == ()


def test_a_manifest_that_xarray_erased_comes_back_and_the_users_variable_stays(run, path, whole):
    """``to_zarr`` in mode "a" writes the root anew, of a dataset that has no manifest."""
    scores = xr.Dataset({"score": ("image", [0.5, 1.5, 2.5])}, attrs={"judge": "me"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata, and of files beside arrays
        scores.to_zarr(path, mode="a", consolidated=True)
    elsewhere = path.parent / "elsewhere"
    for command in (
        *(("build", path, "--resume"), ("info", path), ("collect", path), ("sensitivity", path)),
        *(("analyze", path), ("export-config", path, elsewhere), ("compare", path, whole)),
        *(("quantize", path, elsewhere, "--bits-per-weight", 5), ("compare", whole, path)),
        *(("export-legacy", path, elsewhere), ("verify", path)),
    ):
        code, out, err = run(*command)
        assert (code, f"calibzarr repair {path}" in out + err) == (1, True), command
    repair(path)
    assert verify(path).ok
    found = values(path)
    np.testing.assert_array_equal(found.score, scores.score)
    assert found.attrs["judge"] == "me"
    xr.testing.assert_equal(found.drop_vars("score"), values(whole))
    assert repair(path).actions == ()


def test_a_dry_run_fails_as_the_repair_would(path, monkeypatch):
    wrong = path.parent / "wrong.csv"
    wrong.write_text("prompt\na\nb\nc\n")
    with pytest.raises(StoreError, match=rf"wrong\.csv is not what {path} was built from"):
        repair(path, prompts=wrong, dry_run=True)
    monkeypatch.setattr(store, "remove_leftovers", lambda path: json.loads("{"))
    with pytest.raises(ValueError, match="Expecting property name"):
        repair(path, dry_run=True)
    (path / "copies" / "root.json").unlink()
    (path / "zarr.json").write_text("")
    with pytest.raises(OptionError, match=f"{path} has lost its manifest .*, by model, and by"):
        repair(path, dry_run=True)


def test_what_a_live_builder_writes_stays(path):
    begun = children.event()
    with children.running(children.begin_to_write, path / "decoded" / "c.2.0.0.0", begun):
        assert begun.wait(60)
        children.make_leftovers_old(path)
        assert repair(path).actions == ()
    assert repair(path).actions == ("removed 1 leftovers of interrupted writes",)


def test_command_tells_what_was_done_and_what_is_next(run, path):
    spoil(path)
    before = snapshot(path)
    code, out, err = run("repair", path, "--dry-run", "-q")
    assert code == 0
    assert "would have moved image 1 to latents/damaged" in out
    assert out.endswith(f"next: calibzarr repair {path}\n")
    assert snapshot(path) == before
    code, out, err = run("repair", path, "-q")
    assert (code, err) == (0, "")
    assert "2 of 3 images are complete" in out
    assert f"next: calibzarr build {path} --resume && calibzarr verify {path}" in out
    code, out, err = run("repair", path, "-q")
    assert "nothing to repair" in out
    for wrong in (path.parent / "none", path.parent):
        code, out, err = run("repair", wrong)
        assert (code, err.count("\n")) == (1, 1)
