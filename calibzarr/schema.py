"""The format as data: every dimension, variable, dtype, chunk and unit, and the version.

Nothing else spells the layout of a store; ``stores/README.md`` explains it to readers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

FORMAT = "calibzarr"
FORMAT_VERSION = 1

IMAGE_CHUNK = 1024  # images in one chunk of a coordinate: small, and a store may still grow


@dataclass(frozen=True)
class Variable:
    """One array of the store.

    Attributes:
        name: its name in the flat root group.
        dims: names of its dimensions.
        dtype: a NumPy dtype name, or ``"string"``.
        description: what it holds, in a few words.
        units: units of the values, "" where there are none.
        chunk: extent of a chunk along some dimensions; the others are not divided.
        shard: the same for a shard, or None where chunks are not gathered in shards.
        fill_value: what reading a missing chunk gives.
        coordinate: whether xarray is to see it as a coordinate.
        compression_level: of blosc-zstd with bitshuffle.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    description: str
    units: str = ""
    chunk: Mapping[str, int] = field(default_factory=dict)
    shard: Mapping[str, int] | None = None
    fill_value: float | int | bool | str = 0
    coordinate: bool = False
    compression_level: int = 3

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape for the given size of each dimension."""
        return tuple(sizes[dim] for dim in self.dims)

    def extent(self, divided: Mapping[str, int], sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Extent of one chunk or shard, which ``divided`` describes."""
        return tuple(divided.get(dim, sizes[dim]) for dim in self.dims)


SIGMA = Variable(
    "sigma", ("step",), "float32", "noise level of each state; the last is 0", coordinate=True
)
TIMESTEP = Variable(
    "timestep", ("step",), "float32", "what the model is told: 1000 sigma", coordinate=True
)
FINAL = Variable(
    "final", ("step",), "bool", "true for the last state", coordinate=True, fill_value=False
)
PROMPT = Variable(
    "prompt",
    ("image",),
    "string",
    "text that the image was made from",
    chunk={"image": IMAGE_CHUNK},
    coordinate=True,
    fill_value="",
)
SEED = Variable(
    "seed",
    ("image",),
    "int64",
    "seed of the image's first noise",
    chunk={"image": IMAGE_CHUNK},
    coordinate=True,
)
COMPLETE = Variable(
    "complete",
    ("image",),
    "bool",
    "whether the image is in the store; written when a build ends",
    chunk={"image": IMAGE_CHUNK},
    coordinate=True,
    fill_value=False,
)
LATENTS = Variable(
    "latents",
    ("image", "step", "channel", "height", "width"),
    "float32",
    "states of the sampler, from noise to picture",
    units="latent units",
    chunk={"image": 1, "step": 1},
    shard={"image": 1},
    fill_value=float("nan"),
)
DECODED = Variable(
    "decoded",
    ("image", "row", "column", "rgb"),
    "uint8",
    "the final state as a picture",
    chunk={"image": 1},
    compression_level=5,
)

BUILD_VARIABLES = (SIGMA, TIMESTEP, FINAL, PROMPT, SEED, COMPLETE, LATENTS, DECODED)

LATENT_DTYPES = ("float32", "float16")

# Attributes that decide what the states are. A resume with any other value is refused.
FINGERPRINT = (
    "model",
    "model_fingerprint",
    "num_steps",
    "cfg_weight",
    "image_size",
    "latent_dtype",
    "activation_dtype",
    "sampler",
    "seed",
    "batch_size",
)
