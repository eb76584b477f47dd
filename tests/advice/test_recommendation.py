import shutil

import numpy as np
import pytest

from calibzarr.advice import recommendation
from calibzarr.errors import OptionError, StoreError
from calibzarr.quantization.clipping import clipping_range
from calibzarr.quantization.quantizers import QUANTIZERS
from calibzarr.storage import reading
from calibzarr.storage.commit import update_attributes
from calibzarr.storage.manifest import read_root
from tests.support.measuring import measure

pytestmark = pytest.mark.slow


def recommend(path, **options):
    return recommendation.of_store(read_root(path), recommendation.Options(**options))


@pytest.fixture(scope="module")
def measured(replayed, tmp_path_factory):
    """A store with sensitivities of made-up products."""
    path = tmp_path_factory.mktemp("measured") / "a.zarr"
    shutil.copytree(replayed.path, path)
    measure(path)
    return path


@pytest.fixture(scope="module")
def recommended(measured):
    return recommend(measured, weight_bits=4.5, activation_bits=5)


def rows(recommended, name):
    return recommended.sel(layer=name)


def test_means_are_those_of_the_chosen_bits(recommended, replayed):
    """Counted here from the values that the statistics are of, and from the weights."""
    statistics = reading.open_statistics(replayed.path)
    groups, bits, scaled, number = {}, [], 0.0, 0
    for row in range(recommended.sizes["layer"]):
        layer = recommended.isel(layer=row)
        if str(layer.role.values) != "input":
            continue
        weight = replayed.weights[str(layer.layer.values)]
        scaled += weight.size * int(layer.weight_bits) + 16 * weight.shape[0]
        number += weight.size
        if not bool(layer.text_only):
            one_call = int(statistics.value_count.values[row].max()) // 5
            calls = (layer.end_step - layer.first_step).values
            groups[str(layer.input_group.values)] = one_call * calls, layer.phase_bits.values
    total = sum(size.sum() for size, _ in groups.values())
    bits = sum((size * of_phases).sum() for size, of_phases in groups.values()) / total
    prediction = recommended.attrs["prediction"]
    assert prediction["activation_bits"] == pytest.approx(bits)
    assert prediction["weight_bits"] == pytest.approx(scaled / number)
    assert 4.8 < bits <= 5 + 1e-9
    assert 4.4 < scaled / number <= 4.5 + 1e-9
    assert prediction["weight_bytes"] == round(scaled / 8)


def test_exceptions_are_what_the_layers_say(recommended):
    for name, bits in (("y_embedder.mlp.fc1", 16), ("context_embedder", 8)):
        layer = rows(recommended, name)
        assert int(layer.activation_bits) == bits
        assert (layer.phase_bits == bits).all()
        assert int(layer.weight_bits) <= 8
        assert "depend on the text alone" in str(layer.reason.values)


def test_ranges_are_those_that_sensitivities_were_measured_with(recommended, measured):
    dataset = reading.open_store(measured)
    for name in ("mm_block_0.image.mlp.fc1", "mm_block_1.text.attn.o_proj"):
        layer = rows(recommended, name)
        bits = [int(layer.activation_bits), *layer.phase_bits.values.tolist()]
        low = [float(layer.clip_min), *layer.phase_clip_min.values.tolist()]
        high = [float(layer.clip_max), *layer.phase_clip_max.values.tolist()]
        for number, *ends in zip(bits, low, high, strict=True):
            quantizer = f"activation-tensor-{number}"
            column = [q.name for q in QUANTIZERS].index(quantizer)
            expected = dataset.isel(quantizer=column).sel(layer=name)
            assert ends == [expected.sensitivity_clip_min, expected.sensitivity_clip_max]


def test_a_block_has_the_most_bits_within_it(recommended):
    block = rows(recommended, "mm_block_0")
    inside = recommended.isel(
        layer=(recommended.block.values == "mm_block_0") & (recommended.role.values == "input")
    )
    quantized = inside.activation_bits.values[inside.activation_bits.values < 16]
    assert int(block.activation_bits) == quantized.max()
    assert str(block.weight_scheme.values) == ""
    assert "the most bits of the" in str(block.reason.values)


def test_phases_touch_midway(recommended, measured):
    sigma = reading.open_store(measured).sigma.values.astype(float)
    ends = recommended.end_step.values
    assert np.isnan(recommended.sigma_max.values[0])
    assert np.isnan(recommended.sigma_min.values[-1])
    for phase in range(len(ends) - 1):
        border = (sigma[ends[phase] - 1] + sigma[ends[phase]]) / 2
        assert recommended.sigma_min.values[phase] == border
        assert recommended.sigma_max.values[phase + 1] == border
    assert ends[-1] == len(sigma) - 1


def test_shares_are_of_the_whole_error(recommended):
    total = recommended.activation_share.sum("layer") + recommended.weight_share.sum("layer")
    np.testing.assert_allclose(total, 1)


def test_without_sensitivities_relative_noise_decides(replayed):
    chosen = recommend(replayed.path, activation_bits=5)
    assert not chosen.attrs["by_phase"]
    assert not chosen.phase_bits.any()
    assert chosen.attrs["prediction"]["output_sqnr_db"] is None
    assert "calibzarr.sensitivity" in str(chosen.attrs["warnings"][0])
    observed = recommendation.observed.activations(reading.open_statistics(replayed.path))
    low, _ = clipping_range("lp", observed.overall, (int(chosen.activation_bits[6]),))
    assert chosen.clip_min.values[6] == pytest.approx(low[6, 0], rel=1e-5)  # searched in float32


def test_by_token_ranges_are_the_extremes(measured):
    found = recommend(measured, activation_quantizer="token")
    np.testing.assert_array_equal(found.clip_min, found.value_min)
    np.testing.assert_array_equal(found.clip_max, found.value_max)
    assert not found.clip_min_fraction.any()
    assert (found.clip_max_fraction == 1).all()


def test_kept_layers_stay_as_they_are(measured):
    found = recommend(measured, keep=["*.adaLN_modulation", "final_layer.linear"])
    kept = np.isin(found.kind.values, ("adaLN_modulation", "linear"))
    kept &= found.role.values == "input"
    assert kept.any()
    assert (found.activation_bits.values[kept] == 16).all()
    assert (found.weight_bits.values[kept] == 16).all()
    assert found.attrs["prediction"]["activation_bits"] <= 8


def test_widths_that_no_group_divides_stay_as_they_are(replayed):
    statistics = reading.open_statistics(replayed.path)
    odd = statistics.features.values.copy()
    odd[0] = 100
    changed = statistics.assign_coords(features=("layer", odd))
    options = recommendation.Options(weight_quantizer="mlx", weight_bits=4.5)
    found = recommendation.of_statistics(changed, options)
    assert int(found.weight_bits[0]) == 16
    assert "no quantizer fits" in str(found.reason.values[0])


def test_what_does_not_fit_the_sensitivities_is_refused(measured, replayed, tmp_path):
    with pytest.raises(OptionError, match="clip is lp of the sensitivities, got mse"):
        recommend(measured, clip="mse")
    with pytest.raises(OptionError, match="by_phase needs sensitivities"):
        recommend(replayed.path, by_phase=True)
    with pytest.raises(OptionError, match=r"keep 'mm_block_9\.\*' matches no linear layer; give"):
        recommend(replayed.path, keep=["mm_block_9.*"])
    other = tmp_path / "a.zarr"
    shutil.copytree(measured, other)
    about = dict(reading.open_store(other).attrs["sensitivity"])
    update_attributes(other, {"sensitivity": {**about, "model_fingerprint": "other"}})
    with pytest.raises(StoreError, match="sensitivities of other weights than its statistics"):
        recommend(other)
    update_attributes(other, {"sensitivity": {**about, "statistics": "older"}})
    (warning,) = recommend(other).attrs["warnings"]
    assert "newer statistics than its sensitivities" in str(warning)
