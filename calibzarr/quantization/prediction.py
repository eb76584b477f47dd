"""What a quantization will do to the guided output and to pictures, from signed products."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from calibzarr.errors import StoreError
from calibzarr.quantization.configuration import Configuration
from calibzarr.quantization.quantizers import QUANTIZERS, Quantizer
from calibzarr.quantization.sensitivity import nearest_steps, phase_of_calls, sensitivity

NO_QUANTIZER = -1  # in the place of a quantizer's position
_WHITE = 255  # levels of a stored picture


@dataclass(frozen=True)
class Measured:
    """The sensitivities of a store, as arrays.

    Attributes:
        names: of the layers, shape (layer,).
        linear: which are inputs of linear layers, shape (layer,), bool.
        input_group: position of the first layer that reads the same values, shape (layer,).
        steps: rising indices of the measured calls, shape (step,).
        sigma: noise levels of all states, shape (call + 1,).
        products: signed products, shape (layer, step, quantizer, image, probe), by ``QUANTIZERS``;
            NaN where there is no such quantization. Those of inputs that several layers read are
            of all of these together, and stand at each.
        power: sum of squares of the guided output, shape (step, image).
        elements: values of the guided output of an image.
        amplification: share of an error's energy at each call that is left, shape (call,).
        decoder_gain_db: squared error of final latents over that of their pictures, whose values
            are from 0 to 1, dB; NaN if unknown.
        clip_min: lower ends of the ranges of activations by tensor, shape (layer, bits).
        clip_max: upper ends, likewise.
    """

    names: np.ndarray
    linear: np.ndarray
    input_group: np.ndarray
    steps: np.ndarray
    sigma: np.ndarray
    products: np.ndarray
    power: np.ndarray
    elements: int
    amplification: np.ndarray
    decoder_gain_db: float
    clip_min: np.ndarray
    clip_max: np.ndarray

    @property
    def num_steps(self) -> int:
        """Model calls of a sampling."""
        return len(self.sigma) - 1

    @cached_property
    def widths(self) -> np.ndarray:
        """How far each call goes in sigma, shape (call,)."""
        return np.asarray(-np.diff(self.sigma.astype(np.float64)))

    @cached_property
    def error(self) -> np.ndarray:
        """Squared error of the output over its power, shape (layer, step, quantizer)."""
        return sensitivity(self.products, self.power).value.astype(np.float64)

    @cached_property
    def step_power(self) -> np.ndarray:
        """Mean over images of the output's sum of squares, shape (step,)."""
        return np.asarray(np.nanmean(self.power, axis=1))


@dataclass(frozen=True)
class Prediction:
    """What a quantization will do.

    Attributes:
        by_step: SQNR of the guided output at each measured call, shape (step,), dB.
        picture_psnr_db: of pictures against those of the unquantized model; NaN if a phase has no
            measured call, or the decoder's gain is not known.
        shares: of the output's error, of ``activation`` and ``weight`` in this order: shape
            (2, layer, step); that of shared inputs stands at the first layer that quantizes them.
    """

    by_step: np.ndarray
    picture_psnr_db: float
    shares: np.ndarray

    @property
    def output_sqnr_db(self) -> float:
        """Mean over the measured calls, dB; infinite where nothing is quantized."""
        return float(self.by_step.mean())


def predict(measured: Measured, configuration: Configuration) -> Prediction:
    """Predict what a configuration does to the model that was measured.

    Raises:
        StoreError: if it names a layer that was not measured.
    """
    names = measured.names.tolist()
    unknown = [layer.name for layer in configuration.layers if layer.name not in names]
    if unknown:
        raise StoreError(f"{unknown[0]} of the configuration is no layer that was measured")
    rows = [names.index(layer.name) for layer in configuration.layers]
    activation = np.full((len(names), len(measured.steps)), NO_QUANTIZER)
    for column, sigma in enumerate(measured.sigma[measured.steps].tolist()):
        activation[rows, column] = [
            NO_QUANTIZER
            if of_inputs is None
            else QUANTIZERS.index(Quantizer("activation", configuration.scheme, of_inputs.bits))
            for of_inputs in configuration.activations(sigma)
        ]
    weight = np.full(len(names), NO_QUANTIZER)
    weight[rows] = positions([layer.weight for layer in configuration.layers])
    return predict_quantizers(measured, activation, weight)


def positions(quantizers: Sequence[Quantizer | None]) -> list[int]:
    """Of quantizers in ``QUANTIZERS``; ``NO_QUANTIZER`` for None."""
    return [NO_QUANTIZER if one is None else QUANTIZERS.index(one) for one in quantizers]


def predict_quantizers(
    measured: Measured, activation: np.ndarray, weight: np.ndarray
) -> Prediction:
    """Predict what quantizers do, to first order, errors of layers adding up without covariance.

    With S[s] the sum over inputs and weights of the squared error that each alone makes, over the
    output's power P[s], the output's SQNR at a call is -10 log10 S[s].

    Call k of width D and amplification a leaves c[k] = D sqrt(a C[s(k)]) in the final latents, with
    C[s] = S[s] P[s] / elements. Errors of calls s and t correlate as R[s, t]: the sum over layers
    of d[s] d[t], over images, normalised, with d the signed products of the one probe that all
    calls share. Two calls of one measured call correlate as that does with the nearest other of
    its phase. Latents have the error L = sum over k and m of c[k] R[s(k), s(m)] c[m], pictures
    (before they are rounded) that over the decoder's gain.

    Args:
        measured: of a store.
        activation: positions in ``QUANTIZERS`` or ``NO_QUANTIZER``, shape (layer, step).
        weight: likewise, shape (layer,).
    """
    weights = np.repeat(weight[:, None], len(measured.steps), axis=1)
    kinds = [_once_a_group(measured, activation), weights]
    error = np.stack([_of_chosen(measured.error, chosen) for chosen in kinds])
    total = error.sum(axis=(0, 1))
    shared_probe = measured.products[..., 0].astype(np.float64)
    together = np.zeros((len(total), len(total)))
    for chosen, rows in zip(kinds, (measured.input_group, None), strict=True):
        products = _of_chosen(shared_probe, chosen)
        if rows is not None:  # at two calls, different layers of a group may be the first
            gathered = np.zeros_like(products)
            np.add.at(gathered, rows, products)
            products = gathered
        together += np.einsum("lsi,lti->st", products, products)
    with np.errstate(divide="ignore"):
        by_step = -10 * np.log10(total)
    return Prediction(
        by_step,
        _picture_psnr_db(measured, total * measured.step_power / measured.elements, together),
        error / np.where(total > 0, total, 1),
    )


def _once_a_group(measured: Measured, activation: np.ndarray) -> np.ndarray:
    """Quantizers of inputs, at the first layer alone that quantizes them; shape (layer, step)."""
    rows, columns = np.nonzero(activation != NO_QUANTIZER)
    keys = np.stack([measured.input_group[rows], columns])
    first = np.unique(keys, axis=1, return_index=True)[1]
    once = np.full_like(activation, NO_QUANTIZER)
    once[rows[first], columns[first]] = activation[rows[first], columns[first]]
    return once


def _of_chosen(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Values of shape (layer, step, quantizer, ...) at positions of shape (layer, step); else 0."""
    rows, columns = np.nonzero(chosen != NO_QUANTIZER)
    taken = np.zeros((*chosen.shape, *values.shape[3:]))
    taken[rows, columns] = values[rows, columns, chosen[rows, columns]]
    return taken


def _picture_psnr_db(measured: Measured, power: np.ndarray, together: np.ndarray) -> float:
    """From C[s, s], shape (step,), latent units squared, and the errors of one probe together."""
    nearest = nearest_steps(measured.num_steps, measured.steps)
    if (nearest < 0).any():
        return float("nan")
    of_probe = np.diag(together)
    scale = np.sqrt(np.where(of_probe > 0, of_probe, np.inf))
    correlation = together / scale / scale[:, None]
    within = correlation[np.arange(len(power)), _neighbours(measured)][nearest]
    matrix = np.where(nearest[:, None] == nearest, within, correlation[nearest[:, None], nearest])
    np.fill_diagonal(matrix, 1)
    left = measured.widths * np.sqrt(measured.amplification * power[nearest])
    error = max(float(left @ matrix @ left), 0.0)  # of final latents, latent units squared
    levels = _WHITE**2 * error * 10 ** (-measured.decoder_gain_db / 10)
    # Both pictures are rounded to whole levels: far below one, few values differ, by one.
    stored = levels + 1 / 6 if levels > 1 / 6 else np.sqrt(2 * levels / np.pi)
    with np.errstate(divide="ignore"):
        return float(20 * np.log10(_WHITE) - 10 * np.log10(stored))


def _neighbours(measured: Measured) -> np.ndarray:
    """For each measured call the nearest other one of its phase, else the next, or the one before.

    Two calls that it stands for correlate as it does with that one. Shape (step,).
    """
    steps, number = measured.steps, len(measured.steps)
    phase = phase_of_calls(measured.num_steps, steps)
    distance = np.abs(steps[:, None] - steps).astype(float)
    distance[(phase[:, None] != phase) | np.eye(number, dtype=bool)] = np.inf
    following = np.arange(1, number + 1)
    following[-1] = max(number - 2, 0)
    return np.where(np.isinf(distance.min(axis=1)), following, distance.argmin(axis=1))
