"""Runs of quantized models: built, gone on with, verified; with all that is refused."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.errors import OptionError, StoreError
from calibzarr.models import registry
from calibzarr.quantization.configuration import parse
from calibzarr.sampling import models
from calibzarr.sampling.sampler import euler_states
from calibzarr.storage.manifest import fingerprint, read_root
from tests.support import numpy_model
from tests.support.configurations import of_model
from tests.support.stores import open_strictly, snapshot, without_index

pytestmark = pytest.mark.usefixtures("loaded_once")

PHASES = (4, 5, 8)


@pytest.fixture(scope="module")
def reference(make_store):
    return make_store(num_images=3, num_steps=3, seed=7, cfg_weight=2.5)


@pytest.fixture(scope="module")
def configuration(tiny):
    return of_model(tiny, weight=4, phases=PHASES)


@pytest.fixture(scope="module")
def file(configuration, tmp_path_factory):
    path = tmp_path_factory.mktemp("configuration") / "w4.json"
    path.write_text(json.dumps(configuration.content, indent=2))
    return path


@pytest.fixture(scope="module")
def whole(tiny, reference, file, tmp_path_factory):
    """A run, uninterrupted."""
    path = tmp_path_factory.mktemp("run") / "w4.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: tiny)
        calibzarr.build(path, reference=reference, quantized=file)
    return path


def test_a_run_holds_what_the_quantized_model_samples(whole, reference, tiny, configuration):
    run, full = calibzarr.open_store(whole), calibzarr.open_store(reference)
    schedule, model = tiny.schedule(3), tiny.quantized(configuration)
    for name in ("sigma", "timestep", "prompt", "seed"):
        np.testing.assert_array_equal(run[name], full[name])
    np.testing.assert_array_equal(run.latents[:, 0], full.latents[:, 0])
    for image in range(3):
        conditioning = tiny.encode([str(full.prompt.values[image])], 2.5)
        states = euler_states(model, conditioning, schedule, [7 + image], 64)
        expected = np.concatenate([tiny.to_numpy(state) for state in states])
        np.testing.assert_array_equal(run.latents[image], expected)
        np.testing.assert_array_equal(run.decoded[image], tiny.decode(expected[-1]))
        assert (run.latents[image, -1] != full.latents[image, -1]).all()


def test_its_manifest_is_the_reference_s_and_says_what_it_is(whole, reference, file, configuration):
    run, full = open_strictly(whole), open_strictly(reference)
    about, quantized = run.attrs.pop("reference"), run.attrs.pop("quantized")
    assert quantized == {
        "kind": "configuration",
        "sha256": configuration.sha256,
        "path": str(file),
    }
    assert about == {
        "path": str(reference),
        "fingerprint": fingerprint(
            full.attrs, full.prompt.values.tolist(), full.seed.values.tolist()
        ),
    }
    made = dict.fromkeys(("created", "history"))
    assert {**run.attrs, **made} == {**full.attrs, **made}
    text = run.quantization_config
    assert text.dims == ()
    assert parse(json.loads(text.item())) == configuration


def test_a_fingerprint_is_of_what_decides_the_states():
    attributes = {"model": "tiny", "seed": 0, "num_images": 1, "created": "today"}
    before = fingerprint(attributes, ["a"], [0])
    assert fingerprint({**attributes, "created": "tomorrow"}, ["a"], [0]) == before
    for changed in (
        ({**attributes, "seed": 1}, ["a"], [0]),
        ({**attributes, "noise": "other"}, ["a"], [0]),
        (attributes, ["b"], [0]),
        (attributes, ["a"], [1]),
        (attributes, ["a", "b"], [0, 1]),
    ):
        assert fingerprint(*changed) != before


def test_a_configuration_of_nothing_makes_the_reference_again(tmp_path, reference, tiny):
    path = tmp_path / "same.zarr"
    calibzarr.build(path, reference=reference, quantized=of_model(tiny))
    run, full = calibzarr.open_store(path), calibzarr.open_store(reference)
    np.testing.assert_array_equal(run.latents, full.latents)
    np.testing.assert_array_equal(run.decoded, full.decoded)
    assert run.attrs["quantized"]["path"] is None


def test_a_run_goes_on_by_itself_alone(tmp_path, whole, reference, file):
    shutil.copytree(reference, tmp_path / "reference.zarr")
    shutil.copy(file, tmp_path / "w4.json")
    path = tmp_path / "parts.zarr"
    options = {"reference": tmp_path / "reference.zarr", "quantized": tmp_path / "w4.json"}
    result = calibzarr.build(path, images=(1, 2), **options)
    assert (result.num_images, result.n_completed) == (3, 1)
    assert calibzarr.build(path, images=(0, 1), resume=True, **options).n_completed == 2
    shutil.rmtree(tmp_path / "reference.zarr")
    (tmp_path / "w4.json").unlink()
    assert calibzarr.build(path, resume=True).built == 1
    parts, expected = snapshot(path), snapshot(whole)
    images = [name for name in expected if name.startswith(("latents/c", "decoded/c"))]
    assert parts.keys() == expected.keys()
    assert {name: parts[name] for name in images} == {name: expected[name] for name in images}


def test_resume_with_reference_begins_or_goes_on(tmp_path, reference, file, tiny):
    path, options = tmp_path / "a.zarr", {"reference": reference, "quantized": file}
    assert calibzarr.build(path, images=(0, 1), resume=True, **options).n_completed == 1
    before = snapshot(path)
    other = of_model(tiny, weight=3)
    with pytest.raises(OptionError, match=r"was begun with quantized '[0-9a-f]{64}', and cannot"):
        calibzarr.build(path, reference=reference, quantized=other, resume=True)
    assert snapshot(path) == before


def test_a_run_of_another_reference_is_refused(tmp_path, whole, make_store, file):
    other = make_store(num_images=1, num_steps=1)
    with pytest.raises(OptionError, match="was begun with reference"):
        calibzarr.build(whole, reference=other, quantized=file, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 2}, "num_images is the reference's, got 2; beside reference and quantized"),
        ({"seed": 0}, "seed is the reference's"),
        ({"model": "tiny"}, "model is the reference's"),
        ({"images": (2, 9)}, "images must be A:B with 0 <= A < B <= 3, got 2:9"),
        ({"quantized": None}, "reference needs quantized"),
        ({"reference": None}, "quantized needs reference"),
    ],
)
def test_what_the_reference_decides_is_not_chosen(tmp_path, reference, file, options, message):
    chosen = {"reference": reference, "quantized": file, **options}
    with pytest.raises(OptionError, match=message):
        calibzarr.build(tmp_path / "a.zarr", **chosen)
    assert not (tmp_path / "a.zarr").exists()


def test_a_run_needs_a_path_of_its_own(reference, whole, file):
    options = {"reference": reference, "quantized": file}
    with pytest.raises(OptionError, match="reference needs a path for the new store"):
        calibzarr.build(**options)
    with pytest.raises(OptionError, match="exists already"):
        calibzarr.build(reference, **options)
    with pytest.raises(OptionError, match="made by a model that is not quantized"):
        calibzarr.build(reference, resume=True, **options)
    with pytest.raises(OptionError, match="num_steps is the reference's"):
        calibzarr.build(whole, num_steps=3, resume=True)
    with pytest.raises(FileNotFoundError, match="there is no store at"):
        calibzarr.build("elsewhere.zarr", reference="nowhere.zarr", quantized=file)


def test_a_run_is_no_reference(tmp_path, whole, reference, file):
    with pytest.raises(StoreError, match=f"whose reference is {reference}; give that one by refer"):
        calibzarr.build(tmp_path / "a.zarr", reference=whole, quantized=file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_fingerprint": "0123"}, "the configuration is for other weights"),
        ({"model": None}, "was imported, and its model is not known"),
        ({"cfg_weight": None}, "was imported, and its cfg_weight is not known"),
        ({"activation_dtype": "float16"}, "was built with activation_dtype 'float16', but tiny"),
    ],
)
def test_a_reference_that_the_model_did_not_make_is_refused(
    tmp_path, reference, file, change, message
):
    path = tmp_path / "reference.zarr"
    shutil.copytree(reference, path)
    root = json.loads((without_index(path) / "zarr.json").read_text())
    root["attributes"].update(change)
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match=message):
        calibzarr.build(tmp_path / "a.zarr", reference=path, quantized=file)
    assert not (tmp_path / "a.zarr").exists()


def test_a_configuration_for_another_model_is_refused(tmp_path, reference, configuration):
    rows = dict(configuration.content["layer_configs"])
    rows["mm_block_9.image.attn.q_proj"] = rows.pop("mm_block_3.image.attn.q_proj")
    other = parse({**configuration.content, "layer_configs": rows})
    with pytest.raises(StoreError, match="tiny has no layer mm_block_9"):
        calibzarr.build(tmp_path / "a.zarr", reference=reference, quantized=other)


def test_a_model_that_cannot_be_quantized_says_so(configuration):
    run = models.Run({}, {}, configuration)
    with pytest.raises(StoreError, match="mixer cannot be run quantized: it has no method quanti"):
        models.quantized(numpy_model.Mixer(), run)


@pytest.mark.parametrize("function", ["collect", "sensitivity"])
def test_what_measures_a_model_refuses_a_run(whole, reference, function):
    before = snapshot(whole)
    message = rf"full-precision one alone .* calibzarr.{function}\('{reference}'\)"
    with pytest.raises(StoreError, match=message):
        getattr(calibzarr, function)(whole)
    assert snapshot(whole) == before


def test_a_run_is_loaded_quantized(whole, reference, tiny, configuration):
    run, full = read_root(whole), read_root(reference)
    assert models.load(full) is models.load(full, tiny) is tiny
    conditioning, schedule = tiny.encode(["a red circle"], 2.5), tiny.schedule(3)
    noise = tiny.initial_latents([1], 64, schedule)
    found = []
    for model in (models.load(run), tiny.quantized(configuration)):
        with model.denoiser(conditioning, schedule, [1]) as denoise:
            found.append(tiny.to_numpy(denoise(noise, 1)))
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
def test_verify_makes_a_run_again_by_the_quantized_model(tmp_path, whole):
    assert calibzarr.verify(whole, model=True, sample=2).ok
    path = tmp_path / "a.zarr"
    shutil.copytree(whole, path)
    (path / "quantization_config" / "c").write_bytes(b"")
    findings = calibzarr.verify(path, model=True).findings
    assert any("quantization_config" in finding.message for finding in findings)


@pytest.mark.slow
def test_repair_and_resume_make_an_image_of_a_run_again(tmp_path, whole):
    path = tmp_path / "a.zarr"
    shutil.copytree(whole, path)
    shard = path / "latents" / "c.1.0.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-100])
    calibzarr.repair(path)
    assert calibzarr.build(path, resume=True).built == 1
    np.testing.assert_array_equal(xr.open_zarr(path).latents[1], xr.open_zarr(whole).latents[1])
