import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.errors import OptionError
from calibzarr.legacy import import_plan, importing
from tests.support import old_directory
from tests.support.moving import QUIET, bring_in, load, take_out


def change_prompt(old):
    old_directory.edit_manifest(
        old, lambda manifest: manifest["images"][1].update(prompt="another")
    )


def change_seed(old):
    old_directory.edit_manifest(old, lambda manifest: manifest["images"][1].update(seed=1))


def change_model(old):
    old_directory.edit_manifest(old, lambda manifest: manifest.update(model_version="sd3.5-large"))


def change_states(old):
    path = old / "samples" / "0000_003.npz"
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    np.savez_compressed(path, **{**arrays, "x": arrays["x"] + 1})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (change_prompt, "prompts"),
        (change_seed, "seeds"),
        (change_model, "model"),
        (change_states, "states"),
    ],
)
def test_an_import_goes_on_only_from_the_same_directory(tmp_path, change, what):
    old_directory.write(tmp_path / "old")
    bring_in(tmp_path / "old", tmp_path / "a.zarr")
    before = load(tmp_path / "a.zarr")
    change(tmp_path / "old")
    with pytest.raises(OptionError, match=f"differs from .* in {what}, and is no import of it"):
        bring_in(tmp_path / "old", tmp_path / "a.zarr")
    xr.testing.assert_identical(load(tmp_path / "a.zarr"), before)


def test_a_built_store_is_not_touched(tmp_path, loaded_once):
    old_directory.write(tmp_path / "old")
    calibzarr.build(tmp_path / "a.zarr", num_images=1, num_steps=1)
    with pytest.raises(OptionError, match="exists already, and was not imported"):
        bring_in(tmp_path / "old", tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "key",
    [
        "n_completed",
        "num_images",
        "num_steps",
        "cfg_scale",
        "latent_size",
        "prompt_path",
        "model_version",
        "use_t5",
        "seed_base",
        "images_saved",
        "latents_saved",
    ],
)
def test_a_manifest_may_lack_any_key(tmp_path, key):
    old_directory.write(tmp_path / "old", num_images=1, drop_keys=[key])
    assert bring_in(tmp_path / "old", tmp_path / "a.zarr").n_completed == 1
    dataset = load(tmp_path / "a.zarr")
    assert dataset.attrs["model"] == (None if key == "model_version" else "sd3-medium")
    assert (dataset.attrs["cfg_weight"], dataset.attrs["num_steps"]) == (7.5, 3)


@pytest.mark.parametrize("key", ["image_id", "seed", "cfg_weight", "num_steps", "filename"])
def test_an_image_of_the_manifest_may_lack_any_key_but_its_prompt(tmp_path, key):
    old_directory.write(tmp_path / "old", drop_image_keys=[key])
    assert bring_in(tmp_path / "old", tmp_path / "a.zarr").n_completed == 3
    dataset = load(tmp_path / "a.zarr")
    assert dataset.seed.values.tolist() == ([42, 43, 44] if key == "seed" else [42, 45, 48])
    assert dataset.prompt.values[2] == "a thing, number 2"
    np.testing.assert_array_equal(dataset.decoded[2], old_directory.picture(2, 4))


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"images": 3}', "\xff", "[" * 10_000])
def test_a_missing_or_broken_manifest_is_made_again_from_files_and_prompts(tmp_path, content):
    old = tmp_path / "old"
    old_directory.write(old)
    manifest = old / "manifest.json"
    manifest.unlink() if content is None else manifest.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"prompt of image 0 and 2 more is not known .*by prompts"):
        bring_in(old, tmp_path / "a.zarr")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,seed\na,5\nb,\n")
    with pytest.raises(ValueError, match=r"prompt of image 2 is not known .*prompts\.csv has 2"):
        bring_in(old, tmp_path / "a.zarr", prompts=prompts)
    assert not (tmp_path / "a.zarr").exists()
    prompts.write_text("prompt,seed\na,5\nb,\nc,\n")
    plan = import_plan.plan(
        old, tmp_path / "a.zarr", prompts=prompts, model="sd3-medium", cfg_weight=5, seed=100
    )
    assert len(plan.notes) == 1
    assert "manifest" in str(plan.notes[0])
    importing.run(plan, QUIET)
    dataset = load(tmp_path / "a.zarr")
    assert dataset.prompt.values.tolist() == ["a", "b", "c"]
    assert dataset.seed.values.tolist() == [5, 101, 102]
    assert (dataset.attrs["model"], dataset.attrs["cfg_weight"]) == ("sd3-medium", 5.0)
    assert dataset.attrs["prompt_source"] == "prompts.csv"
    expected = old_directory.trajectory(1, 3, 4).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(dataset.latents[1], expected)


@pytest.mark.parametrize("name", ["../x.png", "/etc/hostname", "images/../../x.png", "link/x.png"])
@pytest.mark.parametrize("key", ["filename", "latent_filename"])
def test_a_manifest_that_names_files_outside_is_refused(tmp_path, name, key):
    old = tmp_path / "old"
    old_directory.write(old)
    (old / "link").symlink_to(tmp_path)
    old_directory.edit_manifest(old, lambda manifest: manifest["images"][1].update({key: name}))
    with pytest.raises(ValueError, match=f"manifest.json names the file '{name}', which is not in"):
        bring_in(old, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_a_layout_that_can_be_either_must_be_said(tmp_path):
    old_directory.write(tmp_path / "old", size=16, num_images=1)
    with pytest.raises(OptionError, match=r"may have its channels first or last; .*layout='nchw'"):
        bring_in(tmp_path / "old", tmp_path / "a.zarr")
    bring_in(tmp_path / "old", tmp_path / "a.zarr", layout="nhwc")
    expected = old_directory.trajectory(0, 3, 16).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(load(tmp_path / "a.zarr").latents[0], expected)
    take_out(tmp_path / "a.zarr", tmp_path / "back", layout="nhwc")
    bring_in(tmp_path / "back", tmp_path / "b.zarr")  # an export of our own says which it is
    np.testing.assert_array_equal(load(tmp_path / "b.zarr").latents[0], expected)


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_that_are_not_16_need_the_layout(tmp_path, channels_last):
    old_directory.write(tmp_path / "old", num_images=1, channels=8, channels_last=channels_last)
    with pytest.raises(ValueError, match="16 channels neither first nor last; say where"):
        bring_in(tmp_path / "old", tmp_path / "a.zarr")
    layout = "nhwc" if channels_last else "nchw"
    bring_in(tmp_path / "old", tmp_path / "a.zarr", layout=layout)
    expected = old_directory.trajectory(0, 3, 4, 8).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(load(tmp_path / "a.zarr").latents[0], expected)


def test_trajectories_without_their_end_are_no_dataset(tmp_path):
    old_directory.write(tmp_path / "old")
    for file in (tmp_path / "old" / "samples").glob("*_003.npz"):
        file.unlink()
    with pytest.raises(
        ValueError, match=r"does not fall to 0, but is 1 to 0\.00.*: states are missing"
    ):
        bring_in(tmp_path / "old", tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "sd4"}, "unknown model 'sd4'"),
        ({"cfg_weight": float("nan")}, "cfg_weight must be 0 or more, got nan"),
        ({"layout": "chw"}, "layout must be nchw or nhwc, got 'chw'"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
        ({"seed": 2**32}, "seed must be 0 to 4294967293 for 3 images"),
        ({"seed": 7}, "seed is 7, but the manifest says 42; leave the option out"),
        ({"cfg_weight": 3}, "cfg_weight is 3.0, but the manifest says 7.5"),
        ({"model": "tiny"}, "model is 'tiny', but the manifest says 'argmaxinc/mlx-stable-diff"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_created(tmp_path, options, message):
    old_directory.write(tmp_path / "old")
    with pytest.raises(OptionError, match=message):
        bring_in(tmp_path / "old", tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()
