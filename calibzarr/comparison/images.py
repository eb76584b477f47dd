"""Each image of the runs beside that of the reference: states and pictures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from calibzarr.comparison import states
from calibzarr.comparison.pictures import psnr_db, ssim
from calibzarr.comparison.plan import ComparisonPlan
from calibzarr.errors import Message, Option, OptionError
from calibzarr.storage import schema, shards, store
from calibzarr.storage.manifest import Root

Features = Callable[[np.ndarray], np.ndarray]
"""``features = function(pictures)``: (image, row, column, rgb), uint8, to (image, feature)."""

_BATCH_VALUES = 2**22  # of pictures at a time


@dataclass
class ComparedImages:
    """What is known of a run's images, one by one.

    Attributes:
        error: sum of squared differences of states, shape (image, step); NaN where not finite.
        power: sum of squares of the reference's, likewise.
        psnr_db: of pictures, shape (image,).
        ssim: likewise.
        features: of pictures, batch by batch of shape (image, feature).
        without_picture: why pictures cannot be compared, or None.
    """

    error: np.ndarray
    power: np.ndarray
    psnr_db: np.ndarray
    ssim: np.ndarray
    features: list[np.ndarray] = field(default_factory=list)
    without_picture: Message | None = None

    @classmethod
    def empty(cls, num_images: int, num_states: int) -> "ComparedImages":
        """Room for what is to be found."""
        error, power = np.empty((2, num_images, num_states))
        return cls(error, power, *np.empty((2, num_images)))


def compare_images(
    plan: ComparisonPlan, features: Features | None, advance: Callable[[int], None]
) -> tuple[ComparedImages, ...]:
    """Compare all images, some pictures at a time and one trajectory of each store.

    Args:
        plan: what to compare.
        features: of pictures, if any are wanted.
        advance: called with the number of images after each run's batch.

    Returns:
        One for each run; and before them one for the reference with itself, of which
        ``features`` and ``without_picture`` alone count.
    """
    roots = (plan.reference, *plan.runs)
    size = len(plan.images), len(plan.sigma)
    found = tuple(ComparedImages.empty(*size) for _ in roots)
    for positions in _batches(plan):
        chosen = [plan.images[position] for position in positions]
        expected: np.ndarray | None = None
        for root, compared in zip(roots, found, strict=True):
            pictures = _pictures(root, chosen, compared)
            expected = pictures if expected is None else expected
            if features is not None:
                compared.features.append(_features(features, pictures))
            if root is plan.reference:
                continue
            compared.psnr_db[positions] = psnr_db(expected, pictures)
            compared.ssim[positions] = ssim(expected, pictures)
            _compare_states(plan.reference, root, positions, chosen, compared)
            advance(len(chosen))
    return found


def _batches(plan: ComparisonPlan) -> Iterator[list[int]]:
    """Positions in ``plan.images`` of those whose pictures are in memory together."""
    shape = plan.reference.arrays[schema.DECODED.name]["shape"]
    size = max(1, _BATCH_VALUES // int(np.prod(shape[1:])))
    positions = list(range(len(plan.images)))
    return (positions[first : first + size] for first in range(0, len(positions), size))


def _pictures(root: Root, images: Sequence[int], compared: ComparedImages) -> np.ndarray:
    """Pictures of some images; notes in ``compared`` where there is none."""
    decoded = store.array(store.open_group(root, mode="r"), schema.DECODED.name)
    pictures = np.asarray(decoded.oindex[np.array(images)])
    for image, picture in zip(images, pictures, strict=True):
        file = root.path / schema.DECODED.name / schema.DECODED.key(image)
        absent = schema.IMPORTED in root.attributes and not picture.any()  # none to import
        if absent or not file.exists():
            compared.without_picture = Message(f"image {image} of {root.path} has no picture")
    return pictures


def _compare_states(
    reference: Root,
    run: Root,
    positions: Sequence[int],
    images: Sequence[int],
    compared: ComparedImages,
) -> None:
    for position, image in zip(positions, images, strict=True):
        exact, found = (
            shards.read_states(root.path, root.arrays[schema.LATENTS.name], [image])[0].astype(
                np.float32
            )
            for root in (reference, run)
        )
        with np.errstate(invalid="ignore"):  # infinite states have no difference
            error = states.squares(found - exact)
        compared.error[position] = np.where(np.isfinite(error), error, np.nan)
        compared.power[position] = states.squares(exact)


def _features(function: Features, pictures: np.ndarray) -> np.ndarray:
    """A user's features of some pictures, checked.

    Raises:
        OptionError: if they are none.
    """
    features = np.asarray(function(pictures))
    shape = features.shape
    if not (
        features.ndim == 2
        and shape[0] == len(pictures)
        and np.issubdtype(features.dtype, np.floating)
    ):
        raise OptionError(
            Option("features"),
            f" must give floats of shape ({len(pictures)}, feature) for {len(pictures)} pictures, "
            f"got {features.dtype} of shape {shape}",
        )
    if not np.isfinite(features).all():
        raise OptionError(Option("features"), " must give finite values, got NaN or infinity")
    return features.astype(np.float64)
