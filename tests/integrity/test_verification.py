import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calibzarr
from calibzarr.errors import OptionError
from calibzarr.integrity import trajectory_checks
from calibzarr.integrity.verification import verify
from calibzarr.models.formulas import NOISE
from calibzarr.storage import arrays, schema, shards, store
from calibzarr.storage.commit import update_attributes
from calibzarr.storage.manifest import read_root

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def whole(make_store):
    return make_store(num_images=3, num_steps=4, image_size=32)


def test_noise_is_drawn_as_the_format_documents_it(whole):
    dataset = calibzarr.open_store(whole)
    for image in range(3):
        seed, shape = int(dataset.seed[image]), dataset.latents.shape[2:]
        noise = np.random.RandomState(seed).randn(1, *shape).astype(np.float32)
        state = dataset.latents[image, 0].values
        np.testing.assert_array_equal(state, (dataset.sigma.values[0] * noise)[0])
        np.testing.assert_array_equal(
            state, trajectory_checks.first_state(NOISE, seed, shape, 1.0, state.dtype)
        )


@settings(max_examples=60)
@given(data=st.data())
def test_any_changed_byte_of_a_shard_is_found(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "shard"
    states = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
    shard = bytearray(shards.encode(states))
    place = data.draw(st.integers(0, len(shard) - 1))
    shard[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(shard)
    with pytest.raises(ValueError, match="is damaged"):
        shards.read_shard(path, 3, np.arange(3), np.empty_like(states))
    path.write_bytes(shards.encode(states)[: data.draw(st.integers(0, len(shard) - 1))])
    with pytest.raises(ValueError, match="is damaged"):
        shards.read_shard(path, 3, np.arange(3), np.empty_like(states))


def test_a_store_that_was_begun_is_no_failure(tmp_path):
    path = tmp_path / "a.zarr"
    calibzarr.build(path, num_images=3, num_steps=1, image_size=32, images=(1, 2))
    report = verify(path)
    assert report.ok
    assert report.incomplete == (0, 2)
    assert report.passed["noise"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"num_steps": 1, "latent_dtype": "float16"},
        {"num_steps": 2, "cfg_weight": 7.0, "batch_size": 2},
        {"num_steps": 6, "cfg_weight": 0.0, "latent_dtype": "float16", "batch_size": 2},
    ],
)
def test_true_stores_of_all_kinds_are_true_also_by_their_model(tmp_path, options):
    path = tmp_path / "a.zarr"
    calibzarr.build(path, num_images=2, image_size=32, **options)
    report = verify(path, model=True)
    assert report.findings == ()
    assert report.passed["model"] == report.passed["decoding"] == 2


def test_stores_without_checksums_can_be_read_checked_and_gone_on_with(
    tmp_path, whole, monkeypatch
):
    path, create = tmp_path / "old.zarr", arrays.create

    def without(group, variables, sizes, latent_dtype="float32", checksums=True):
        create(group, variables, sizes, latent_dtype, checksums=False)

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "create", without)
        calibzarr.build(path, num_images=3, num_steps=4, image_size=32, images=(0, 2))
    assert "crc32c" not in json.dumps(read_root(path).arrays["decoded"])
    calibzarr.build(path, resume=True)
    assert verify(path).findings == ()
    first, second = calibzarr.open_store(path), calibzarr.open_store(whole)
    np.testing.assert_array_equal(first.latents, second.latents)
    file = path / "latents" / schema.LATENTS.key(1)
    assert len(file.read_bytes()) == len((whole / "latents" / file.name).read_bytes()) - 5 * 4


def test_model_tells_what_no_other_check_can(tmp_path, whole):
    path = shutil.copytree(whole, tmp_path / "a.zarr")
    dataset = calibzarr.open_store(path)
    states, picture = dataset.latents[1].values.copy(), dataset.decoded[1].values.copy()
    states[1:] += 0.01 * np.arange(1, 5)[:, None, None, None]
    picture[3, 3] ^= 64
    store.ImageWriter(path).write(1, states, dataset.decoded[1].values)
    store.ImageWriter(path).write(2, dataset.latents[2].values, picture)
    assert verify(path).ok
    report = verify(path, model=True, sample=3)
    found = [(finding.check, finding.image) for finding in report.findings]
    assert found == [("model", 1), ("decoding", 1), ("decoding", 2)]
    assert report.passed["model"] == 2
    assert verify(path, model=True, sample=3, tolerance=0.1).passed["model"] == 3


def test_the_sample_is_chosen_by_its_seed(whole):
    first, again = (verify(whole, model=True, sample=1, seed=7).passed for _ in range(2))
    assert first == again
    assert first["model"] == 1


def test_other_weights_are_told_before_anything_is_made(tmp_path, whole):
    path = shutil.copytree(whole, tmp_path / "a.zarr")
    update_attributes(path, {"model_fingerprint": "0" * 32})
    (finding,) = verify(path, model=True).findings
    assert finding.check == "model"
    assert "nothing was made again" in finding.message


def test_images_that_are_not_finite_are_named_with_their_step(tmp_path, whole):
    path = shutil.copytree(whole, tmp_path / "a.zarr")
    dataset = calibzarr.open_store(path)
    states = dataset.latents[0].values.copy()
    states[2:, 0, 0, 0] = np.inf
    store.ImageWriter(path).write(0, states, dataset.decoded[0].values)
    (finding,) = verify(path).findings
    assert (finding.check, finding.image) == ("finite", 0)
    assert finding.message == "state 2 and 2 more have values that are not finite"


def test_a_newer_format_is_refused_but_a_changed_version_is_damage(tmp_path, whole):
    path = shutil.copytree(whole, tmp_path / "a.zarr")
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"format_version": 1', '"format_version": 7'))
    assert [finding.check for finding in verify(path).findings] == ["manifest"]
    (path / "copies" / "root.json").unlink()
    with pytest.raises(ValueError, match="Upgrade calibzarr"):
        verify(path)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no store"):
        verify(tmp_path / "none")
    with pytest.raises(ValueError, match="not a calibzarr store"):
        verify(tmp_path)
    with pytest.raises(OptionError, match="sample must be 1 or more, got 0"):
        verify(tmp_path, sample=0)
