"""The models that calibzarr can run, and whether their weights are on this machine.

Importing this is cheap: MLX and DiffusionKit are imported when a model is loaded.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calibzarr.errors import OptionError

if TYPE_CHECKING:
    from calibzarr.models.base import Model

_CLIP_REPOSITORY = "argmaxinc/stable-diffusion"
_CLIP_L = ("clip_l/config.json", "clip_l/model.fp16.safetensors")
_CLIP_L_TOKENIZER = ("tokenizer_l/vocab.json", "tokenizer_l/merges.txt")
_CLIP_G = ("clip_g/config.json", "clip_g/model.fp16.safetensors")
_CLIP_G_TOKENIZER = ("tokenizer_g/vocab.json", "tokenizer_g/merges.txt")
_T5 = ("t5/t5xxl.safetensors",)
_T5_TOKENIZER = (("google/t5-v1_1-xxl", "config.json"), ("google/t5-v1_1-xxl", "spiece.model"))

_TINY_SHA256 = "610672cc20b68754085f3ee9c524657955240befddf61fe50f0a088b1a56a92a"


@dataclass(frozen=True)
class ModelEntry:
    """A model's name, its defaults, and where its weights come from.

    Attributes:
        name: what users call it.
        description: one line.
        image_size: default, in pixels.
        max_image_size: the largest that its position embedding covers, in pixels.
        num_steps: default number of model calls.
        cfg_weight: default weight of classifier-free guidance.
        guided: whether it can run with guidance at all.
        activation_dtype: what it computes in.
        repository: on the Hugging Face Hub; None for the embedded model.
        files: (repository, file) pairs that it loads.
        shift: of the sampler's schedule.
        image_size_multiple: image sizes are multiples of this, in pixels.
        latent_channels: channels of its latents.
        latent_scale: its sampler's latents are its decoder's, less ``latent_shift``, times this.
        latent_shift: see ``latent_scale``; DiffusionKit's ``LatentFormat`` has both.
    """

    name: str
    description: str
    image_size: int
    max_image_size: int
    num_steps: int
    cfg_weight: float
    guided: bool
    activation_dtype: str
    repository: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    shift: float = 3.0
    image_size_multiple: int = 16
    latent_channels: int = 16
    latent_scale: float = 1.5305
    latent_shift: float = 0.0609

    def check_image_size(self, image_size: int) -> None:
        """Check that the model can make images of ``image_size`` pixels.

        Raises:
            OptionError: if not, naming the multiple and the largest.
        """
        multiple = self.image_size_multiple
        if image_size % multiple or not multiple <= image_size <= self.max_image_size:
            raise OptionError(
                f"image_size must be a multiple of {multiple} from {multiple} to "
                f"{self.max_image_size} for {self.name}, got {image_size}"
            )

    def check_cfg_weight(self, cfg_weight: float) -> None:
        """Check that the model runs with this guidance weight.

        Raises:
            OptionError: if not.
        """
        if not 0 <= cfg_weight < float("inf"):
            raise OptionError(f"cfg_weight must be 0 or more, got {cfg_weight}")
        if cfg_weight > 0 and not self.guided:
            raise OptionError(
                f"{self.name} takes no guidance: cfg_weight must be 0, got {cfg_weight}"
            )

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Sizes of (channel, height, width) for square images of ``image_size`` pixels."""
        return self.latent_channels, image_size // 8, image_size // 8

    def missing_files(self) -> tuple[tuple[str, str], ...]:
        """The (repository, file) pairs that are not on this machine."""
        if not self.files:
            return ()
        from huggingface_hub import try_to_load_from_cache

        return tuple(
            (repository, file)
            for repository, file in self.files
            if not isinstance(try_to_load_from_cache(repository, file), str)
        )


def _sd3(name: str, repository: str, weights: str, **defaults: object) -> ModelEntry:
    clip_files = (*_CLIP_L, *_CLIP_L_TOKENIZER, *_CLIP_G, *_CLIP_G_TOKENIZER, *_T5)
    return ModelEntry(
        name=name,
        repository=repository,
        files=(
            (repository, "config.json"),
            (repository, weights),
            *((_CLIP_REPOSITORY, file) for file in clip_files),
            *_T5_TOKENIZER,
        ),
        guided=True,
        activation_dtype="float16",
        num_steps=50,
        max_image_size=1536,
        **defaults,  # type: ignore[arg-type]
    )


def _flux(name: str, repository: str, weights: str, **defaults: object) -> ModelEntry:
    clip_files = (*_CLIP_L, *_CLIP_L_TOKENIZER, *_T5)
    return ModelEntry(
        name=name,
        repository=repository,
        files=(
            (repository, "config.json"),
            (repository, weights),
            (repository, "ae.safetensors"),
            *((_CLIP_REPOSITORY, file) for file in clip_files),
            *_T5_TOKENIZER,
        ),
        guided=False,
        activation_dtype="bfloat16",
        cfg_weight=0.0,
        image_size=512,
        max_image_size=2048,
        shift=1.0,
        latent_scale=0.3611,
        latent_shift=0.1159,
        **defaults,  # type: ignore[arg-type]
    )


MODELS = {
    entry.name: entry
    for entry in (
        ModelEntry(
            name="tiny",
            description="embedded, trained on coloured shapes",
            image_size=64,
            max_image_size=128,
            num_steps=50,
            cfg_weight=3.0,
            guided=True,
            activation_dtype="float32",
        ),
        _sd3(
            "sd3-medium",
            "argmaxinc/mlx-stable-diffusion-3-medium",
            "sd3_medium.safetensors",
            description="Stable Diffusion 3, 2 billion",
            image_size=512,
            cfg_weight=7.5,
        ),
        _sd3(
            "sd3.5-large",
            "argmaxinc/mlx-stable-diffusion-3.5-large",
            "sd3.5_large.safetensors",
            description="Stable Diffusion 3.5, 8 billion",
            image_size=1024,
            cfg_weight=7.5,
        ),
        _flux(
            "flux-schnell",
            "argmaxinc/mlx-FLUX.1-schnell",
            "flux-schnell.safetensors",
            description="FLUX.1 distilled, 12 billion",
            num_steps=4,
        ),
        _flux(
            "flux-dev",
            "argmaxinc/mlx-FLUX.1-dev",
            "flux1-dev.safetensors",
            description="FLUX.1, 12 billion",
            num_steps=50,
        ),
    )
}


def find(name: str) -> ModelEntry:
    """The entry of a model.

    Raises:
        OptionError: if there is no such model; lists those that there are.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise OptionError(f"unknown model {name!r}; the models are {', '.join(MODELS)}") from None


def load(name: str) -> "Model":
    """Load a model with all its weights, downloading what is not on this machine.

    Raises:
        OptionError: if there is no such model.
        ValueError: if the embedded weights are damaged.
        FileNotFoundError: if weights are missing and cannot be downloaded.
        ModuleNotFoundError: if DiffusionKit is not installed.
    """
    entry = find(name)
    if entry.repository is None:
        return _load_tiny()
    _download(entry)
    from calibzarr.models.compatibility import import_diffusionkit, lenient_updates

    kit = import_diffusionkit()
    from calibzarr.models.diffusionkit import DiffusionKitModel

    pipeline_class = kit.DiffusionPipeline if entry.guided else kit.FluxPipeline
    with lenient_updates():
        pipeline = pipeline_class(
            w16=True,
            a16=True,
            shift=entry.shift,
            use_t5=True,
            model_version=entry.repository,
            low_memory_mode=False,
        )
    return DiffusionKitModel(name, pipeline)


def _load_tiny() -> "Model":
    from calibzarr.models import tiny
    from calibzarr.models.diffusionkit import DiffusionKitModel

    _check_sha256(tiny.WEIGHTS, _TINY_SHA256)
    return DiffusionKitModel("tiny", tiny.TinyPipeline())


def _check_sha256(path: Path, expected: str) -> None:
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is {actual}, not {expected}; reinstall calibzarr"
        )


def _download(entry: ModelEntry) -> None:
    """Fetch what is missing, before anything is created."""
    from huggingface_hub import hf_hub_download

    missing = entry.missing_files()
    for repository, file in missing:
        try:
            hf_hub_download(repository, file)
        except Exception as error:  # the hub raises its own, requests' and the system's errors
            reason = next(_first_lines(error), type(error).__name__).rstrip(".")
            # File by file: google/t5-v1_1-xxl also holds all of T5, which nothing here reads.
            commands = " && ".join(
                " ".join(["hf download", name, *(f for r, f in missing if r == name)])
                for name in dict(missing)
            )
            raise FileNotFoundError(
                f"{entry.name} needs {file} of the Hugging Face repository {repository}, which is "
                f"not on this machine and cannot be downloaded ({reason}). Where there is a "
                f"network, accept the repository's licence if it has one, then run: {commands}"
            ) from error


def _first_lines(error: BaseException) -> Iterator[str]:
    return (line.strip() for line in str(error).splitlines() if line.strip())
