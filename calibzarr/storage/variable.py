"""What is to be said of an array of a store, and of arrays that come and go together."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Variable:
    """One array of the store.

    Attributes:
        name: its name in the flat root group.
        dims: names of its dimensions.
        dtype: a NumPy dtype name, or ``"string"``.
        description: what it holds, in a few words.
        units: of the values, as UDUNITS writes them.
        chunk: extent of a chunk along some dimensions; the others are not divided.
        shard: the same for a shard, or None where chunks are not gathered in shards.
        fill_value: what reading a missing chunk gives.
        coordinate: whether xarray is to see it as a coordinate.
        compression_level: of blosc-zstd with bitshuffle.
        optional: whether older stores are without it.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    description: str
    units: str = "1"
    chunk: Mapping[str, int] = field(default_factory=dict)
    shard: Mapping[str, int] | None = None
    fill_value: float | int | bool | str = 0
    coordinate: bool = False
    compression_level: int = 3
    optional: bool = False

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape for the given size of each dimension."""
        return tuple(sizes[dim] for dim in self.dims)

    def extent(self, divided: Mapping[str, int], sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Extent of one chunk or shard, which ``divided`` describes."""
        return tuple(divided.get(dim, sizes[dim]) for dim in self.dims)

    def key(self, index: int) -> str:
        """Key of the chunk, or shard, with this index along the first dimension alone."""
        return ".".join(["c", str(index), *["0"] * (len(self.dims) - 1)])

    def index(self, key: str) -> int | None:
        """The index in a key of :meth:`key`; None for any other key."""
        index = key.split(".")[1] if key.count(".") else ""
        return int(index) if index.isdecimal() and key == self.key(int(index)) else None


@dataclass(frozen=True)
class Addition:
    """Variables that come and go together, some time after a build.

    Attributes:
        attribute: root attribute that tells of them; there if and only if they are.
        variables: all of them.
        title: what users know them as.
    """

    attribute: str
    variables: tuple[Variable, ...]
    title: str

    @property
    def names(self) -> list[str]:
        """Names of the variables."""
        return [variable.name for variable in self.variables]
