"""What the reference's sensitivities say that a run's configuration does."""

from dataclasses import dataclass

NUM_SHARES = 10


@dataclass(frozen=True)
class Share:
    """A part of the predicted error.

    Attributes:
        layer: that makes it; the first of those that share their input.
        kind: of its values, ``activation`` or ``weight``.
        step: index of the call.
        share: of the output's error over all sensitivity steps, from 0 to 1.
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
