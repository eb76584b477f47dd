"""How far the pictures of a run are from the reference's as a whole: the Frechet distance."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from calibzarr.comparison import figures
from calibzarr.comparison.figures import Figure
from calibzarr.storage import schema, shards
from calibzarr.storage.manifest import Root

COMPONENTS = 24
RESAMPLES = 200
_BATCH = 64  # final states


@dataclass(frozen=True)
class Distance:
    """A Frechet distance.

    Attributes:
        figure: squared units of the features.
        features: what they are, in words.
    """

    figure: Figure
    features: str


def frechet(features: np.ndarray, others: np.ndarray) -> float:
    """Frechet distance of two normal distributions that are fitted to features.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson and Landau 1982, Journal of
    Multivariate Analysis 12); the trace of the root is the sum of the singular values of
    ``A1 A2^T / (n - 1)``, where the rows of A are centred, or the same from the covariances.

    Args:
        features: shape (image, feature), two images or more.
        others: likewise, as many.
    """
    x, y = features - features.mean(axis=0), others - others.mean(axis=0)
    num_images, num_features = x.shape
    if num_features < num_images:
        values, vectors = np.linalg.eigh(x.T @ x)
        root = vectors * np.sqrt(values.clip(0)) @ vectors.T
        common = np.sqrt(np.linalg.eigvalsh(root @ (y.T @ y) @ root).clip(0)).sum()
    else:
        common = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    spread = np.square(x).sum() + np.square(y).sum() - 2 * common
    moved = np.square(features.mean(axis=0) - others.mean(axis=0)).sum()
    return max(float(moved + spread / (num_images - 1)), 0.0)


def distance(
    features: np.ndarray, others: np.ndarray, words: str, advance: Callable[[], None]
) -> Distance:
    """The distance with the interval of its resamples; images are drawn as pairs.

    An image that is drawn twice says nothing new, so that distances of resamples are greater by
    about the same factor; their mean is brought to the distance. It is that of so many images:
    of more it is less, so compare distances of equally many alone.

    Args:
        features: of the reference's pictures, shape (image, feature).
        others: of a run's.
        words: what they are.
        advance: called after each resample.
    """
    samples = []
    for images in figures.resamples(len(features), RESAMPLES):
        samples.append(frechet(features[images], others[images]))
        advance()
    value, mean = frechet(features, others), np.mean(samples)
    factor = value / mean if mean > 0 else 1.0
    return Distance(figures.of_samples(value, factor * np.array(samples)), words)


@dataclass(frozen=True)
class LatentComponents:
    """Principal components of the reference's final states.

    Attributes:
        mean: shape (value,).
        components: shape (component, value), orthonormal, by falling variance.
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def of(cls, reference: Root, images: Sequence[int]) -> "LatentComponents":
        """Fit them; all final states are in memory for that, 4 bytes a value."""
        states = np.concatenate(list(_final_states(reference, images)))
        mean = states.mean(axis=0)
        states -= mean
        _, _, components = np.linalg.svd(states, full_matrices=False)
        return cls(mean, components[: min(COMPONENTS, len(images) - 1)])

    def features(self, root: Root, images: Sequence[int]) -> np.ndarray:
        """A store's final states by component, shape (image, component), float64."""
        projected = [
            (states - self.mean) @ self.components.T for states in _final_states(root, images)
        ]
        return np.concatenate(projected).astype(np.float64)

    @property
    def words(self) -> str:
        """What the features are."""
        return f"VAE latents, {len(self.components)} principal components of the reference"


def _final_states(root: Root, images: Sequence[int]) -> Iterator[np.ndarray]:
    """Final states of some images, in batches of shape (image, value), float32."""
    metadata = root.arrays[schema.LATENTS.name]
    last = metadata["shape"][1] - 1
    for first in range(0, len(images), _BATCH):
        batch = images[first : first + _BATCH]
        states = shards.read_states(root.path, metadata, batch, [last])
        yield states.reshape(len(batch), -1).astype(np.float32)
