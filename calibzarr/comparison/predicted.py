"""What the reference's sensitivities say that a run's configuration does."""

from dataclasses import dataclass

import numpy as np

from calibzarr.collecting import measured
from calibzarr.errors import Message, StoreError
from calibzarr.quantization.prediction import Measured, Prediction, predict
from calibzarr.quantization.sensitivity import nearest_steps
from calibzarr.sampling import runs
from calibzarr.storage.manifest import Root

NUM_SHARES = 10
KINDS = ("activation", "weight")


@dataclass(frozen=True)
class Share:
    """A part of the predicted error.

    Attributes:
        layer: that makes it; the first of those that share their input.
        kind: of its values, ``activation`` or ``weight``.
        step: index of the sensitivity step, for all calls that it stands for.
        share: of the error that is left in pictures, from 0 to 1.
    """

    layer: str
    kind: str
    step: int
    share: float


@dataclass(frozen=True)
class Predicted:
    """A prediction.

    Attributes:
        step: sensitivity steps.
        by_step: SQNR of the guided output at each of them, dB.
        output_sqnr_db: mean over them.
        picture_psnr_db: mean PSNR of pictures.
        shares: the largest, in falling order.
    """

    step: tuple[int, ...]
    by_step: tuple[float, ...]
    output_sqnr_db: float
    picture_psnr_db: float
    shares: tuple[Share, ...]


def predicted(reference: Root, run: Root) -> Predicted | Message:
    """What the sensitivities of the reference say of a run, or why they say nothing."""
    try:
        found = runs.stored(run)
        if found is None:
            return Message("its model is not quantized")
        if found.configuration is None:
            return Message("what a checkpoint's weights lose is not known beforehand")
        store = measured.read(reference)
        prediction = predict(store, found.configuration)
    except StoreError as error:
        return error.message
    return Predicted(
        step=tuple(store.steps.tolist()),
        by_step=tuple(prediction.by_step.tolist()),
        output_sqnr_db=prediction.output_sqnr_db,
        picture_psnr_db=prediction.picture_psnr_db,
        shares=_largest(store, shares(store, prediction)),
    )


def shares(store: Measured, prediction: Prediction) -> np.ndarray:
    """Parts of the error of pictures: of ``activation`` and ``weight``, by layer and step.

    A sensitivity step s stands for the calls k whose nearest it is. With D their width in sigma, a
    their amplification and C[s] the error of an output's value, they leave an error of
    ``C[s] (sum over k of D[k] sqrt(a[k]))^2``, since errors of neighbouring calls go together; a
    layer has the part of it that it has of the error of the output at s.

    Returns:
        Shape (2, layer, step), all together 1, or 0 where nothing is quantized.
    """
    nearest = nearest_steps(store.num_steps, store.steps)
    reach = store.widths * np.sqrt(store.amplification)
    summed = np.bincount(nearest[nearest >= 0], reach[nearest >= 0], len(store.steps))
    error = np.power(10, -prediction.by_step / 10) * store.step_power * np.square(summed)
    total = error.sum()
    return np.asarray(prediction.shares * error / (total if total > 0 else 1))


def _largest(store: Measured, shares: np.ndarray) -> tuple[Share, ...]:
    order = np.argsort(-shares, axis=None, kind="stable")[:NUM_SHARES]
    return tuple(
        Share(str(store.names[layer]), KINDS[kind], int(store.steps[step]), float(share))
        for kind, layer, step in zip(*np.unravel_index(order, shares.shape), strict=True)
        if (share := shares[kind, layer, step]) > 0
    )
