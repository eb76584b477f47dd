import json
import shutil

import numpy as np
import pytest

from calibzarr.advice import by_bits, observed, recommendation
from calibzarr.advice.options import Options
from calibzarr.storage.manifest import read_root
from calibzarr.storage.reading import open_statistics, open_store
from tests.support.measuring import measure


@pytest.fixture(scope="module")
def measured(replayed, tmp_path_factory):
    """A store with sensitivities in every phase, of products that no model had to make."""
    path = tmp_path_factory.mktemp("measured") / "a.zarr"
    shutil.copytree(replayed.path, path)
    measure(path, images=2, probes=2, steps=[0, 1, 2])
    return path


@pytest.fixture(scope="module")
def evidence(measured):
    statistics, sensitivities = (
        open_statistics(measured),
        recommendation.measured_of(read_root(measured)),
    )
    return by_bits.evidence_of(statistics, observed.activations(statistics), sensitivities)


@pytest.fixture(scope="module")
def of_model(evidence):
    return by_bits.of_model(evidence)


@pytest.mark.parametrize("bits", by_bits.TOLD)
def test_the_whole_is_what_configurations_of_these_bits_predict(measured, of_model, bits):
    own = of_model.sel(quantized="both", bits=bits)
    costs = {"weight_bits": float(bits), "activation_bits": float(bits)}
    for method in by_bits.ALLOCATIONS:
        found = calibrated(measured, method, costs)
        if method == "uniform":  # what the budget may cost, too
            costs = {name: found[name] for name in costs}
            assert own.weight_bits == pytest.approx(costs["weight_bits"])
            assert own.activation_bits == pytest.approx(costs["activation_bits"])
        for name in ("output_sqnr_db", "picture_psnr_db"):
            expected = np.nan if found[name] is None else found[name]
            actual = float(own[name].sel(allocation=method))
            assert actual == pytest.approx(expected, nan_ok=True)


def calibrated(path, method, costs):
    return json.loads(recommendation.recommend(path, method=method, **costs).attrs["prediction"])


def test_quantizing_less_makes_less_error(of_model):
    both = of_model.output_sqnr_db.sel(quantized="both")
    for alone in ("weights", "activations"):
        assert (of_model.output_sqnr_db.sel(quantized=alone) > both).all()


def test_descriptions_are_of_json(of_model):
    content = by_bits.describe(of_model)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    found = content["weights"]["4"]["budget"]["output_sqnr_db"]
    expected = of_model.output_sqnr_db.sel(quantized="weights", bits=4, allocation="budget")
    assert found == pytest.approx(float(expected), abs=0.005)


def test_of_layers_is_each_quantization_alone(measured, evidence):
    options = Options(weight_bits=4.5, activation_bits=5)
    statistics = open_statistics(measured)
    recommended = recommendation.of_statistics(
        statistics, options, measured=recommendation.measured_of(read_root(measured))
    )
    found, dataset = by_bits.of_layers(evidence, recommended), open_store(measured).load()
    width = -np.diff(dataset.sigma.values.astype(float))  # three calls, and each is measured
    power = dataset.output_power.mean("sensitivity_image").values
    for kind, scheme in (("activation", "tensor"), ("weight", "row")):
        for bits in by_bits.TOLD:
            column = dataset[f"{kind}_sensitivity"].sel(quantizer=f"{kind}-{scheme}-{bits}")
            energy = (column.values * width * power).sum(axis=1)
            expected = 10 * np.log10((width * power).sum() / energy)
            actual = found[f"{kind}_output_db"].sel(bits=bits)
            np.testing.assert_allclose(actual, expected, rtol=1e-5)
        cost = found[f"{kind}_bit_cost"].values
        assert np.nansum(cost) == pytest.approx(1)
        for name in ("gain", "loss"):
            share = found[f"{kind}_bit_{name}"].values
            assert (share[~np.isnan(share)] >= 0).all()
            assert (np.isnan(share) | ~np.isnan(cost)).all()
    weights = recommended.weight_bits.values
    chosen = ~np.isnan(found.weight_bit_cost.values)
    assert (np.isnan(found.weight_bit_gain.values[chosen]) == (weights[chosen] == 8)).all()
    assert (np.isnan(found.weight_bit_loss.values[chosen]) == (weights[chosen] == 2)).all()
    number = statistics.weight_histogram.sum("bin").values
    np.testing.assert_allclose(
        found.weight_bit_cost.values[chosen], number[chosen] / number[chosen].sum()
    )
