import numpy as np
import pytest

from calibzarr.quantization.levels import BITS
from calibzarr.quantization.quantizers import (
    ACTIVATION_QUANTIZERS,
    QUANTIZERS,
    QuantizationErrors,
)

pytestmark = pytest.mark.slow


NAMES = [quantizer.name for quantizer in QUANTIZERS]
STEP = 4


@pytest.fixture(scope="module")
def schedule(tiny):
    return tiny.schedule(8)


@pytest.fixture(scope="module")
def errors(tiny):
    """Of all quantizers, with one range for all layers."""
    ends = np.full((len(tiny.layers()), len(BITS)), 4.0)
    return QuantizationErrors(-ends, ends)


@pytest.fixture(scope="module")
def conditioning(tiny):
    return tiny.encode(["a red circle", "a small blue square on white"], 3.0)


@pytest.fixture(scope="module")
def latents(tiny, schedule):
    return tiny.initial_latents([1, 2], 64, schedule)


@pytest.fixture(scope="module")
def probes():
    return np.random.default_rng(0).choice([-1, 1], (2, 3, 16, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def measured(tiny, latents, conditioning, schedule, probes, errors):
    return tiny.signed_products(latents, conditioning, schedule, STEP, probes, errors)


def velocity(tiny, latents, conditioning, schedule):
    with tiny.denoiser(conditioning, schedule, steps=[STEP]) as denoise:
        return tiny.to_numpy(latents - denoise(latents, STEP)) / schedule.sigma[STEP]


LARGE = [
    "t_embedder.mlp.fc1",
    "y_embedder.mlp.fc2",
    "context_embedder",
    "mm_block_0.image.adaLN_modulation",
    "mm_block_1.text.attn.v_proj",
    "mm_block_2.image.mlp.fc1",
    "mm_block_3.image.attn.o_proj",
    "final_layer.linear",
]


@pytest.mark.parametrize("name", LARGE)
def test_first_derivatives_agree_with_finite_differences(
    name, tiny, latents, conditioning, schedule, probes, measured, errors
):
    """Along the error of a quantizer of the weight, scaled down to where the output is linear."""
    index = [layer.name for layer in tiny.layers()].index(name)
    quantizer = NAMES.index("weight-tensor-6")
    module = dict(tiny.pipeline.mmdit.named_modules())[tiny.layers()[index].module]
    weight = module.weight
    error = errors.of_weight(index, weight)[quantizer - len(ACTIVATION_QUANTIZERS)]
    sums = []
    for sign in (1, -1):
        module.weight = weight + sign * 0.05 * error
        output = velocity(tiny, latents, conditioning, schedule).astype(np.float64)
        sums.append((output[:, None] * probes).sum(axis=(2, 3, 4)))
    module.weight = weight
    expected = (sums[0] - sums[1]) / 0.1
    actual = measured[0][index, quantizer]
    np.testing.assert_allclose(actual, expected, atol=0.01 * np.abs(expected).max())


def test_activations_of_a_group_are_quantized_together(
    tiny, latents, conditioning, schedule, probes, measured, errors
):
    """Along the error of an activation quantizer, for inputs that three layers share."""
    layers = tiny.layers()
    group = [i for i, v in enumerate(layers) if v.input_group == "mm_block_1.image.attn.k_proj"]
    assert len(group) == 3
    for quantizer in ("activation-tensor-6", "activation-token-4"):
        column = NAMES.index(quantizer)
        sums = []
        for sign in (1, -1):

            def moved(layer, inputs, sign=sign, column=column):
                if layer not in group:
                    return inputs
                return inputs + sign * 0.02 * errors.of_inputs(layer, inputs)[column]

            with tiny.transforming_inputs(moved):
                output = velocity(tiny, latents, conditioning, schedule).astype(np.float64)
            sums.append((output[:, None] * probes).sum(axis=(2, 3, 4)))
        expected = (sums[0] - sums[1]) / 0.04
        for index in group:
            actual = measured[0][index, column]
            np.testing.assert_allclose(actual, expected, atol=0.02 * np.abs(expected).max())


def test_power_is_that_of_the_guided_output(tiny, latents, conditioning, schedule, measured):
    output = velocity(tiny, latents, conditioning, schedule).astype(np.float64)
    np.testing.assert_allclose(measured[1], np.square(output).sum(axis=(1, 2, 3)), rtol=1e-5)


def test_the_model_is_as_before(tiny, latents, conditioning, schedule, probes, errors):
    before = velocity(tiny, latents, conditioning, schedule)
    fingerprint = {name: id(module) for name, module in tiny.pipeline.mmdit.named_modules()}
    tiny.signed_products(latents, conditioning, schedule, STEP, probes[:, :1], errors)
    np.testing.assert_array_equal(velocity(tiny, latents, conditioning, schedule), before)
    after = {name: id(module) for name, module in tiny.pipeline.mmdit.named_modules()}
    assert fingerprint == after


def test_what_there_is_no_quantizer_for_is_nan_and_what_has_no_effect_0(tiny, measured):
    products = measured[0]
    layers = tiny.layers()
    for index, layer in enumerate(layers):
        fits = [q.quantizes == "activation" or q.fits(layer.features) for q in QUANTIZERS]
        known = np.array(fits) & (layer.role == "input")
        assert (~np.isnan(products[index]).all(axis=(1, 2)) == known).all(), layer.name
    (last,) = (i for i, v in enumerate(layers) if v.name == "mm_block_3.text.attn.q_proj")
    weights = products[last, len(ACTIVATION_QUANTIZERS) :]
    assert np.nanmax(np.abs(weights)) == 0


def test_images_do_not_depend_on_their_batch(tiny, latents, schedule, probes, measured, errors):
    alone = tiny.encode(["a red circle"], 3.0)
    products, power = tiny.signed_products(
        latents[:1], alone, schedule, STEP, probes[:1, 1:2], errors
    )
    np.testing.assert_allclose(
        products[..., 0, 0], measured[0][..., 0, 1], rtol=1e-4, atol=1e-4 * np.nanmax(products)
    )
    assert power[0] == pytest.approx(measured[1][0], rel=1e-5)
