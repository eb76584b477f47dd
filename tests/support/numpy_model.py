"""A model from elsewhere in one file: NumPy alone, a mixer of pixels, nothing of DiffusionKit.

Its latents are rows of pixels; its layers have other names; its noise, its schedule and what it is
told of a sigma are its own; it takes no guidance. It draws nothing that anybody would recognize.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from calibzarr.models.base import Denoise, Layer, Receive, Schedule
from calibzarr.models.entry import ModelEntry, Noise, ScheduleFormula
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import reduce

CHANNELS, PIXELS_PER_LATENT, WIDTH, WORDS = 3, 4, 12, 8


def _draw(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _sigma(num_steps: int) -> np.ndarray:
    return 4 * (1 - np.arange(num_steps + 1) / num_steps) ** 2


def _normalized(hidden: np.ndarray) -> np.ndarray:
    return hidden / np.sqrt(1 + np.mean(hidden**2, axis=-1, keepdims=True))


NOISE = Noise("numpy.random.PCG64", _draw)
SCHEDULE = ScheduleFormula("mixer.square", _sigma, np.log1p)

LAYERS = (
    Layer("words", "words", "words", "text", "embed", "input", WORDS, "words", "words", "", True),
    Layer("stem", "stem", "stem", "image", "embed", "input", CHANNELS, "stem", "stem"),
    *(
        Layer(
            f"mix{number}.{kind}",
            f"mix.{number}.{kind}",
            f"mix{number}",
            "image",
            kind,
            "input",
            WIDTH,
            f"mix{number}.{first}",
            f"mix{number}.{first}",
            follows,
        )
        for number in range(2)
        for kind, first, follows in (
            ("gate", "gate", ""),
            ("value", "gate", ""),
            ("out", "out", "tanh"),
        )
    ),
    *(
        Layer(f"mix{n}", f"mix.{n}", f"mix{n}", "image", "block", "output", WIDTH, *[f"mix{n}"] * 2)
        for n in range(2)
    ),
    Layer("head", "head", "head", "image", "embed", "input", WIDTH, "head", "head"),
)
_OUTPUTS = {"words": WIDTH, "stem": WIDTH, "head": CHANNELS}


@dataclass(frozen=True)
class Caption:
    """Words of prompts as numbers, shape (image, 1, word)."""

    words: np.ndarray


class Mixer:
    """Linear layers on pixels, one of which gates another."""

    name = "mixer"
    activation_dtype = "float32"
    sampler = "euler"

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.weights = {
            layer.name: random.standard_normal(
                (_OUTPUTS.get(layer.name, WIDTH), layer.features), dtype=np.float32
            )
            / np.float32(np.sqrt(layer.features))
            for layer in LAYERS
            if layer.role == "input"
        }
        parameters = b"".join(weight.tobytes() for weight in self.weights.values())
        self.fingerprint = hashlib.blake2b(parameters, digest_size=16).hexdigest()
        self._observe = None

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        return ENTRY.latent_shape(image_size)

    def schedule(self, num_steps: int) -> Schedule:
        sigma = _sigma(num_steps).astype(np.float32)
        return Schedule(sigma, np.log1p(sigma))

    def initial_latents(
        self, seeds: Sequence[int], image_size: int, schedule: Schedule
    ) -> np.ndarray:
        noise = np.stack([_draw(seed, self.latent_shape(image_size)) for seed in seeds])
        return self.from_numpy(schedule.sigma[0] * noise)

    def encode(self, prompts: Sequence[str], cfg_weight: float) -> Caption:
        assert cfg_weight == 0
        digests = [hashlib.blake2b(text.encode(), digest_size=WORDS).digest() for text in prompts]
        words = np.array([list(digest) for digest in digests], dtype=np.float32) / 255
        return Caption(words[:, None])

    @contextmanager
    def denoiser(
        self, conditioning: Caption, schedule: Schedule, steps: Sequence[int] | None = None
    ) -> Iterator[Denoise]:
        def denoise(latents: np.ndarray, step: int) -> np.ndarray:
            level = np.float32(1 / (1 + schedule.sigma[step]))
            hidden = self._linear("stem", level * latents)
            hidden = hidden + self._linear("words", conditioning.words)
            for block in ("mix0", "mix1"):
                normed = _normalized(hidden)
                gate, value = (
                    self._linear(f"{block}.{kind}", normed) for kind in ("gate", "value")
                )
                gated = gate * value
                hidden = hidden + self._linear(f"{block}.out", np.tanh(gated))
                self._see(block, hidden)
            return np.tanh(self._linear("head", _normalized(hidden)))

        yield denoise

    def to_numpy(self, latents: np.ndarray) -> np.ndarray:
        size = int(np.sqrt(latents.shape[1]))
        return latents.reshape(-1, size, size, CHANNELS).transpose(0, 3, 1, 2).astype(np.float32)

    def from_numpy(self, latents: np.ndarray) -> np.ndarray:
        return latents.transpose(0, 2, 3, 1).reshape(len(latents), -1, CHANNELS).astype(np.float32)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        picture = (127.5 * (1 + latents.clip(-1, 1))).astype(np.uint8).transpose(1, 2, 0)
        return picture.repeat(PIXELS_PER_LATENT, axis=0).repeat(PIXELS_PER_LATENT, axis=1)

    def layers(self) -> tuple[Layer, ...]:
        return LAYERS

    @contextmanager
    def observing(self, num_images: int, bins: LogBins, receive: Receive) -> Iterator[None]:
        seen: dict[int, tuple[np.ndarray, list[int]]] = {}
        names = [layer.name for layer in LAYERS]

        def observe(name: str, values: np.ndarray) -> None:
            seen.setdefault(id(values), (values, []))[1].append(names.index(name))

        self._observe = observe
        try:
            yield
        finally:
            self._observe = None
        for values, indices in seen.values():
            receive(indices, reduce(values[None], bins))

    def weight(self, layer: Layer) -> np.ndarray | None:
        return self.weights.get(layer.name)

    def _linear(self, name: str, values: np.ndarray) -> np.ndarray:
        self._see(name, values)
        return values @ self.weights[name].T

    def _see(self, name: str, values: np.ndarray) -> None:
        if self._observe is not None:
            self._observe(name, values)


ENTRY = ModelEntry(
    name="mixer",
    description="pixels mixed by NumPy",
    load=Mixer,
    image_size=16,
    max_image_size=64,
    image_size_multiple=PIXELS_PER_LATENT,
    num_steps=6,
    latent_channels=CHANNELS,
    pixels_per_latent=PIXELS_PER_LATENT,
    noise=NOISE,
    schedule=SCHEDULE,
)
