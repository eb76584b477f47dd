from dataclasses import replace
from math import log10, pi, sqrt

import numpy as np
import pytest

from calibzarr.errors import StoreError
from calibzarr.quantization.configuration import (
    ActivationQuantization,
    Configuration,
    LayerConfiguration,
    Phase,
)
from calibzarr.quantization.prediction import NO_QUANTIZER, predict, predict_quantizers
from calibzarr.quantization.quantizers import QUANTIZERS, Quantizer
from calibzarr.statistics.steps import phases
from tests.support.sensitivities import NUM_STEPS, made_up

NAMES = [quantizer.name for quantizer in QUANTIZERS]


def of(*names):
    return [NAMES.index(name) if name else NO_QUANTIZER for name in names]


def quantized(measured):
    """Bits by phase, of which those that read the same have the same, and weights."""
    by_step = [
        of("activation-tensor-4", "activation-token-5", "activation-token-5", "", ""),
        of("activation-tensor-8", "activation-token-3", "activation-token-3", "", ""),
    ]
    activation = np.array([by_step[index % 2] for index in range(len(measured.steps))]).T
    weight = np.array(of("weight-row-4", "", "weight-tensor-3", "weight-mlx-64-2", ""))
    return activation, weight


def terms(measured, activation, weight, step):
    """Layer, and quantizer, of every error at a step: shared inputs once."""
    inputs = [(layer, activation[layer, step]) for layer in (0, 1, 3)]
    both = inputs + [(layer, weight[layer]) for layer in range(4)]
    return [(layer, quantizer) for layer, quantizer in both if quantizer != NO_QUANTIZER]


def mean_square(measured, layer, step, quantizer):
    values = measured.products[layer, step, quantizer].astype(float)
    return sum(value**2 for value in values.ravel()) / values.size


def share(measured, step):
    return sum(measured.power[step]) / measured.power.shape[1]


def third_of(call):
    return next(name for name, phase in phases(NUM_STEPS).items() if call in phase)


def picture_psnr(measured, activation, weight):  # noqa: C901  # as the formula is read
    """The formula with loops over calls and layers."""
    steps = [int(step) for step in measured.steps]
    number = len(steps)

    def together(first, second):
        pairs = zip(
            terms(measured, activation, weight, first),
            terms(measured, activation, weight, second),
            strict=True,
        )
        total = 0.0
        for (layer, quantizer), (_, other) in pairs:
            for image in range(3):
                total += float(measured.products[layer, first, quantizer, image, 0]) * float(
                    measured.products[layer, second, other, image, 0]
                )
        return total

    def correlation(first, second):
        return together(first, second) / sqrt(together(first, first) * together(second, second))

    def stands_for(call):
        same = [index for index in range(number) if third_of(steps[index]) == third_of(call)]
        return min(same, key=lambda index: abs(steps[index] - call))

    def beside(index):
        same = [
            i for i in range(number) if i != index and third_of(steps[i]) == third_of(steps[index])
        ]
        if same:
            return min(same, key=lambda i: abs(steps[i] - steps[index]))
        return index + 1 if index + 1 < number else index - 1

    left = []
    for call in range(NUM_STEPS):
        step = stands_for(call)
        squares = sum(
            mean_square(measured, layer, step, quantizer)
            for layer, quantizer in terms(measured, activation, weight, step)
        )
        width = float(measured.sigma[call]) - float(measured.sigma[call + 1])
        left.append(width * sqrt(measured.amplification[call] * squares / measured.elements))
    error = 0.0
    for first in range(NUM_STEPS):
        for second in range(NUM_STEPS):
            one, other = stands_for(first), stands_for(second)
            if first == second:
                factor = 1.0
            else:
                factor = correlation(one, beside(one) if one == other else other)
            error += left[first] * factor * left[second]
    levels = 255**2 * error / 10 ** (measured.decoder_gain_db / 10)
    stored = levels + 1 / 6 if levels > 1 / 6 else sqrt(2 * levels / pi)
    return 10 * log10(255**2 / stored)


@pytest.mark.parametrize("steps", [(1, 4, 7, 10), (0, 2, 5, 9, 11), (2, 6, 9)])
def test_prediction_is_that_of_loops(steps):
    measured = made_up(steps)
    activation, weight = quantized(measured)
    found = predict_quantizers(measured, activation, weight)
    for step in range(len(steps)):
        errors = {
            (kind, layer): mean_square(measured, layer, step, quantizer) / share(measured, step)
            for kind, chosen in ((0, activation[:, step]), (1, weight))
            for layer, quantizer in enumerate(chosen)
            if quantizer != NO_QUANTIZER and (kind, layer) != (0, 2)  # which reads what 1 reads
        }
        total = sum(errors.values())
        np.testing.assert_allclose(found.by_step[step], -10 * log10(total), rtol=1e-6)
        for kind in range(2):
            for layer in range(5):
                expected = errors.get((kind, layer), 0) / total
                np.testing.assert_allclose(found.shares[kind, layer, step], expected, rtol=1e-5)
    assert found.output_sqnr_db == pytest.approx(sum(found.by_step) / len(steps))
    for gain in (18.0, 80.0):  # at the second, pictures differ by less than a level
        measured = replace(measured, decoder_gain_db=gain)
        found = predict_quantizers(measured, activation, weight)
        expected = picture_psnr(measured, activation, weight)
        assert found.picture_psnr_db == pytest.approx(expected, abs=1e-4)


def test_nothing_quantized_makes_no_error():
    measured = made_up()
    none = np.full((5, 4), NO_QUANTIZER)
    found = predict_quantizers(measured, none, none[:, 0])
    assert found.output_sqnr_db == found.picture_psnr_db == np.inf
    assert not found.shares.any()


def test_pictures_are_not_predicted_where_a_phase_was_not_measured():
    measured = made_up((1, 2, 10))
    found = predict_quantizers(measured, *quantized(measured))
    assert np.isnan(found.picture_psnr_db)
    assert np.isfinite(found.output_sqnr_db)
    unknown = replace(made_up(), decoder_gain_db=np.nan)
    assert np.isnan(predict_quantizers(unknown, *quantized(unknown)).picture_psnr_db)


def configuration(measured, by_phase):
    """Bits of a layer by phase: 4 and 8; static: 6."""
    border = float(measured.sigma[6] + measured.sigma[7]) / 2
    layers = tuple(
        LayerConfiguration(
            name=name,
            module=name,
            activation=ActivationQuantization(6, 0.1, 3),
            by_phase=(ActivationQuantization(4, 0.1, 3), None if name == "a" else EIGHT),
            weight=Quantizer("weight", "row", 5),
        )
        for name in ("a", "b.q", "b.k")
    )
    ends = (Phase("first", border, None), Phase("second", None, border))
    return Configuration(layers, ends, by_phase, "tensor", None, None, {})


EIGHT = ActivationQuantization(8, 0.1, 3)


@pytest.mark.parametrize("by_phase", [False, True])
def test_a_configuration_is_predicted_by_its_quantizers(by_phase):
    measured = made_up()
    found = predict(measured, configuration(measured, by_phase))
    activation = np.full((5, 4), NO_QUANTIZER)
    activation[:3] = of("activation-tensor-6")[0]
    if by_phase:
        activation[:3, :2] = of("activation-tensor-4")[0]
        activation[1:3, 2:] = of("activation-tensor-8")[0]
        activation[0, 2:] = NO_QUANTIZER
    weight = np.array(of(*["weight-row-5"] * 3, "", ""))
    expected = predict_quantizers(measured, activation, weight)
    np.testing.assert_array_equal(found.by_step, expected.by_step)
    np.testing.assert_array_equal(found.shares, expected.shares)
    assert found.picture_psnr_db == expected.picture_psnr_db


def test_layers_that_were_not_measured_are_named():
    measured = made_up()
    other = replace(measured, names=np.array(["a", "x", "b.k", "c", "block"]))
    with pytest.raises(StoreError, match=r"b\.q of the configuration is no layer"):
        predict(other, configuration(measured, by_phase=False))


def test_of_inputs_read_by_several_the_first_that_is_quantized_counts():
    measured = made_up()
    activation, weight = quantized(measured)
    activation[1] = NO_QUANTIZER
    found = predict_quantizers(measured, activation, weight)
    assert not found.shares[0, 1].any()
    assert (found.shares[0, 2] > 0).all()
    whole = predict_quantizers(measured, *quantized(measured))
    np.testing.assert_array_equal(found.by_step, whole.by_step)
    assert found.picture_psnr_db == whole.picture_psnr_db
