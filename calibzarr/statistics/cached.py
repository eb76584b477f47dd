"""Statistics of the layers of the caching pass: cheap enough to observe at every call."""

from collections.abc import Sequence
from dataclasses import dataclass

from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import Reduction
from calibzarr.statistics.running import Statistics


@dataclass
class CachedStatistics:
    """What is known of the layers of the caching pass at every call.

    Attributes:
        layers: their indices among all layers, increasing; none in many a model.
        statistics: with these layers alone, at all calls: the final state is none.
    """

    layers: tuple[int, ...]
    statistics: Statistics

    @classmethod
    def empty(
        cls,
        bins: LogBins,
        layers: Sequence[int],
        num_calls: int,
        images: Sequence[int],
        features: int,
    ) -> "CachedStatistics":
        """Statistics of nothing.

        Args:
            bins: of the histograms.
            layers: indices.
            num_calls: of a sampling.
            images: indices of the images that there is to be room for.
            features: the widest of these layers' width.
        """
        statistics = Statistics.empty(bins, len(layers), range(num_calls), images, features)
        return cls(tuple(layers), statistics)

    def update(
        self, layers: Sequence[int], step: int, images: Sequence[int], reduction: Reduction
    ) -> None:
        """Add a batch's values; see :meth:`Statistics.update`.

        Args:
            layers: indices among all layers.
            step: index of the call.
            images: indices of the batch's images in the store.
            reduction: of the values.
        """
        positions = [self.layers.index(layer) for layer in layers]
        self.statistics.update(positions, step, images, reduction)

    def placed(self, images: Sequence[int]) -> "CachedStatistics":
        """The same with room for other images, of which nothing is known yet.

        Args:
            images: increasing; those that were observed among them.
        """
        statistics = self.statistics.placed(self.statistics.steps, images)
        return CachedStatistics(self.layers, statistics)
