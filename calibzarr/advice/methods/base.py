"""Rules that choose the numbers of bits of all layers at once: NumPy in, NumPy out."""

from dataclasses import dataclass

import numpy as np

from calibzarr.errors import OptionError
from calibzarr.quantization.allocation import allocate, tie
from calibzarr.quantization.expected_error import sqnr_db

CHOICES = (2, 4, 6, 8)

WIDE, NARROW = 10.0, 5.0  # of the old rule, in activation units
SPREAD = 0.5  # its standard deviation over the range from p01 to p99
CLIPPED_SHARE = 0.9  # that range over the whole one, below which it clips there


@dataclass(frozen=True)
class Layers:
    """What the rules have to know of the layers.

    Attributes:
        linear: whether it is the input of a linear layer, shape (layer,), bool; else a block.
        tied: linear layers of one number get equal bits, shape (layer,), int.
        inside: whether a block's row speaks for a linear layer, shape (layer, layer), bool;
            rows of linear layers are false.
        operations: multiply-accumulates of a model call, up to a factor, shape (layer,).
        values: observed activations, shape (layer, part), int.
        weights: number of weights, shape (layer,), int.
    """

    linear: np.ndarray
    tied: np.ndarray
    inside: np.ndarray
    operations: np.ndarray
    values: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class QuantizationError:
    """Expected squared error over mean square, NaN where nothing is known.

    Attributes:
        overall: with one clipping range for all steps, shape (layer, choice).
        static: the same by part, shape (layer, part, choice).
        by_part: with a range for each part, shape (layer, part, choice).
        weights: of the weights, shape (layer, choice).
    """

    overall: np.ndarray
    static: np.ndarray
    by_part: np.ndarray
    weights: np.ndarray

    @property
    def worst(self) -> np.ndarray:
        """Of the worst part, with one range for all steps, shape (layer, choice)."""
        return np.asarray(np.fmax.reduce(self.static, axis=1))

    def of_model(self, operations: np.ndarray) -> np.ndarray:
        """Mean over the layers, weighted by their operations, shape (part, choice)."""
        known = ~np.isnan(self.by_part)
        share = operations[:, None, None] * known
        total = (share * np.where(known, self.by_part, 0)).sum(axis=0)
        with np.errstate(invalid="ignore"):  # a part without a collected step
            return np.asarray(total / share.sum(axis=0))


@dataclass(frozen=True)
class Chosen:
    """Indices into ``CHOICES``.

    Attributes:
        activation: shape (layer,).
        by_part: of activations, shape (layer, part).
        weight: shape (layer,).
        schedule: of the activations of the whole model, shape (part,).
    """

    activation: np.ndarray
    by_part: np.ndarray
    weight: np.ndarray
    schedule: np.ndarray


def decibels(noise: np.ndarray) -> np.ndarray:
    """SQNR of a noise, dB; infinite without any."""
    return sqnr_db(np.asarray(1.0), noise)


def by_target(
    noise: QuantizationError, layers: Layers, activation_target: float, weight_target: float
) -> Chosen:
    """The fewest bits that meet targets of SQNR; the most bits where none do.

    Args:
        noise: expected.
        layers: of the model.
        activation_target: for every part under one clipping range, dB.
        weight_target: dB.

    Raises:
        OptionError: if no layer meets a target with any bits; says the best reachable.
    """
    worst, weights = decibels(noise.worst), decibels(noise.weights)
    _check_target("activation_target", activation_target, worst[layers.linear])
    _check_target("weight_target", weight_target, weights[layers.linear])
    activation = _tied(fewest_bits(worst, activation_target), layers)
    by_part = _tied(fewest_bits(decibels(noise.by_part), activation_target), layers)
    weight = _tied(fewest_bits(weights, weight_target), layers)
    return Chosen(
        activation=_with_blocks(activation, layers, own=True),
        by_part=_with_blocks(by_part, layers, own=True),
        weight=_with_blocks(weight, layers, own=False),
        schedule=fewest_bits(decibels(noise.of_model(layers.operations)), activation_target),
    )


def fewest_bits(sqnr_db: np.ndarray, target_db: float) -> np.ndarray:
    """Index of the fewest bits whose SQNR meets a target; of the most where none does.

    Args:
        sqnr_db: shape (..., choice), dB, by rising number of bits.
        target_db: dB.

    Returns:
        Shape (...), int.
    """
    met = sqnr_db >= target_db
    return np.where(met.any(axis=-1), met.argmax(axis=-1), sqnr_db.shape[-1] - 1)


def _check_target(name: str, target: float, reached: np.ndarray) -> None:
    best = float(np.nanmax(reached))
    if not target <= best:
        raise OptionError(
            f"no layer reaches {name} {target:g} dB with up to {CHOICES[-1]} bits; the best "
            f"reachable is {best:.1f} dB"
        )


def by_budget(noise: QuantizationError, layers: Layers, mean_bits: float) -> Chosen:
    """The bits that make least noise, weighted by operations, at a mean number of bits.

    The mean of ``activation`` and of ``by_part`` is over observed values, that of ``weight``
    over weights.

    Args:
        noise: expected.
        layers: of the model.
        mean_bits: upper bound of each mean.

    Raises:
        OptionError: if it is less than the fewest bits.
    """
    if not mean_bits >= CHOICES[0]:
        raise OptionError(
            f"mean_bits must be {CHOICES[0]} or more, the fewest bits of a layer, got {mean_bits:g}"
        )
    linear, operations = layers.linear, layers.operations[:, None]
    values = np.where(linear[:, None], layers.values, 0)
    parts = values.shape[1]
    tied = layers.tied[:, None] * parts + np.arange(parts)  # within each part
    share = values / np.maximum(values.sum(axis=1, keepdims=True), 1)  # of a layer's values
    part_noise = (operations * share)[..., None] * noise.by_part
    of_model = noise.of_model(np.where(linear, layers.operations, 0))
    activation = _budgeted(operations * noise.overall, values.sum(axis=1), layers.tied, mean_bits)
    by_part = _budgeted(
        part_noise.reshape(-1, len(CHOICES)), values.ravel(), tied.ravel(), mean_bits
    ).reshape(values.shape)
    weight = _budgeted(
        operations * noise.weights, np.where(linear, layers.weights, 0), layers.tied, mean_bits
    )
    in_part = values.sum(axis=0)
    return Chosen(
        activation=_with_blocks(activation, layers, own=False),
        by_part=_with_blocks(by_part, layers, own=False),
        weight=_with_blocks(weight, layers, own=False),
        schedule=_budgeted(in_part[:, None] * of_model, in_part, np.arange(parts), mean_bits),
    )


def _budgeted(
    noise: np.ndarray, size: np.ndarray, tied: np.ndarray, mean_bits: float
) -> np.ndarray:
    """Indices of the bits of rows, shape (row,); the fewest for rows of size 0."""
    chosen = np.zeros(len(size), dtype=int)
    counted = size > 0
    groups = np.unique(tied[counted], return_inverse=True)[1]
    costs = tie(size[counted].astype(np.float64), groups)
    budget = mean_bits * costs.sum() * (1 + 1e-12)  # whatever the rounding of the sum
    choice = allocate(tie(noise[counted], groups), costs, np.array(CHOICES), budget)
    chosen[counted] = choice[groups]
    return chosen


def by_range(bits: np.ndarray, part_bits: np.ndarray, layers: Layers) -> Chosen:
    """The bits of the old rule, for activations and, as it did, for weights as well.

    Args:
        bits: of :func:`range_rule` for all steps together, shape (layer,).
        part_bits: the same by part, shape (layer, part).
        layers: of the model.

    Returns:
        With a schedule of the bits that most operations of a part have.
    """
    activation, by_part = (np.searchsorted(CHOICES, own) for own in (bits, part_bits))
    operations = np.where(layers.linear, layers.operations, 0)[:, None, None]
    votes = (operations * (by_part[..., None] == np.arange(len(CHOICES)))).sum(axis=0)
    return Chosen(activation, by_part, activation, votes.argmax(axis=-1))


def range_rule(std: np.ndarray, p01: np.ndarray, p99: np.ndarray) -> np.ndarray:
    """Bits by the rule of the scripts that calibzarr replaces, from activations alone.

    A range from p01 to p99 over 10 takes 8 bits, over 5 takes 6, else 4; a standard deviation
    of more than half of that range adds 2, up to 8.

    Args:
        std: standard deviation, shape (...), activation units, as the others.
        p01: 1st percentile, shape (...).
        p99: 99th percentile, shape (...).

    Returns:
        Bits, shape (...).
    """
    central = p99 - p01
    bits = np.where(central > WIDE, 8, np.where(central > NARROW, 6, 4))
    return np.where(std > SPREAD * central, np.minimum(bits + 2, 8), bits)


def clips_at_tails(
    value_min: np.ndarray, value_max: np.ndarray, p01: np.ndarray, p99: np.ndarray
) -> np.ndarray:
    """Where the same rule clips at p01 and p99: where these span less than 0.9 of the range."""
    return np.asarray(p99 - p01 < CLIPPED_SHARE * (value_max - value_min))


def _tied(chosen: np.ndarray, layers: Layers) -> np.ndarray:
    """The greatest index among the linear layers that are tied; shape (layer, ...)."""
    place = np.unique(np.where(layers.linear, layers.tied, -1), return_inverse=True)[1]
    most = np.zeros((place.max() + 1, *chosen.shape[1:]), dtype=chosen.dtype)
    np.maximum.at(most, place, chosen)
    linear = layers.linear.reshape(-1, *[1] * (chosen.ndim - 1))
    return np.where(linear, most[place], chosen)


def _with_blocks(chosen: np.ndarray, layers: Layers, own: bool) -> np.ndarray:
    """With the greatest index of its linear layers for each block, and maybe of its own."""
    inside = layers.inside.reshape(*layers.inside.shape, *[1] * (chosen.ndim - 1))
    most = np.where(inside, chosen[None], 0).max(axis=1)
    linear = layers.linear.reshape(-1, *[1] * (chosen.ndim - 1))
    return np.where(linear, chosen, np.maximum(most, chosen) if own else most)
