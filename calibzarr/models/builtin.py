"""The models that calibzarr brings, all of DiffusionKit; MLX is imported when one is loaded."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibzarr import memory
from calibzarr.errors import OptionError, StoreError
from calibzarr.models.entry import ModelEntry
from calibzarr.models.formulas import (
    MAX_IMAGE_SIZE_OF_TINY,
    NOISE,
    PIXELS_PER_LATENT,
    flux_schedule,
    sd3_schedule,
)
from calibzarr.models.loading import hub, sources
from calibzarr.models.loading.architectures import FLUX_SHIFT, GUIDANCE, SD3_SHIFT, is_flux
from calibzarr.models.loading.sources import Source
from calibzarr.models.quantized import layout
from calibzarr.prompts.lists import shape_captions

if TYPE_CHECKING:
    from calibzarr.models.base import Model

_CLIP_REPOSITORY = "argmaxinc/stable-diffusion"
_CLIP_L = ("clip_l/config.json", "clip_l/model.fp16.safetensors")
_CLIP_L_TOKENIZER = ("tokenizer_l/vocab.json", "tokenizer_l/merges.txt")
_CLIP_G = ("clip_g/config.json", "clip_g/model.fp16.safetensors")
_CLIP_G_TOKENIZER = ("tokenizer_g/vocab.json", "tokenizer_g/merges.txt")
_T5 = ("t5/t5xxl.safetensors",)
_T5_TOKENIZER = (("google/t5-v1_1-xxl", "config.json"), ("google/t5-v1_1-xxl", "spiece.model"))


def _load_tiny() -> "Model":
    memory.check_address_space()
    from calibzarr.models import tiny
    from calibzarr.models.diffusionkit import DiffusionKitModel

    hub.check_sha256(tiny.WEIGHTS, tiny.SHA256)
    return DiffusionKitModel("tiny", tiny.TinyPipeline())


def _batch_bytes_of_tiny(num_images: int, image_size: int, num_steps: int, *, guided: bool) -> int:
    model: Any = _load_tiny()
    return int(model.batch_bytes(num_images, image_size, num_steps, guided=guided))


def _batch_bytes(
    architecture: str, num_images: int, image_size: int, num_steps: int, *, guided: bool
) -> int:
    import mlx.core as mx

    from calibzarr.models import memory
    from calibzarr.models.loading import pipelines

    sizes = pipelines.sizes(architecture, _version(Source(architecture)))
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    arguments = sizes, num_images, image_size, num_steps
    return memory.batch_bytes(*arguments, guided=guided, on_cpu=on_cpu)


def _load(name: str, source: Source, files: hub.Files) -> "Model":
    memory.check_address_space()
    hub.check(name, files)
    from calibzarr.models.diffusionkit import DiffusionKitModel
    from calibzarr.models.loading import pipelines

    file = source.transformer or hub.path(*MODELS[source.architecture].files[0])
    version = _version(source)
    pipeline = pipelines.load(source.architecture, version, decoder=source.decoder, file=file)
    return DiffusionKitModel(name, pipeline)


def _version(source: Source) -> str:
    """DiffusionKit's name of a model, which says by which names it reads a decoder."""
    repository, _ = MODELS[source.architecture].files[0]
    is_whole = source.of_diffusionkit and source.decoder == source.transformer
    return f"{repository}-4bit-quantized" if is_whole else repository


def _sd3(
    name: str, description: str, repository: str, weights_file: str, **settings: Any
) -> ModelEntry:
    clip_files = (*_CLIP_L, *_CLIP_L_TOKENIZER, *_CLIP_G, *_CLIP_G_TOKENIZER, *_T5)
    files = (
        (repository, weights_file),
        *((_CLIP_REPOSITORY, file) for file in clip_files),
        *_T5_TOKENIZER,
    )
    return ModelEntry(
        name=name,
        description=description,
        load=partial(_load, name, Source(name), files),
        batch_bytes=partial(_batch_bytes, name),
        max_image_size=1536,
        image_size_multiple=16,
        num_steps=50,
        latent_channels=16,
        pixels_per_latent=PIXELS_PER_LATENT,
        noise=NOISE,
        schedule=sd3_schedule(SD3_SHIFT),
        cfg_weight=7.5,
        guided=True,
        repository=repository,
        files=files,
        latent_scale=1.5305,
        latent_shift=0.0609,
        licence="Stability AI Community",
        **settings,
    )


def _flux(
    name: str, description: str, repository: str, weights_file: str, **settings: Any
) -> ModelEntry:
    clip_files = (*_CLIP_L, *_CLIP_L_TOKENIZER, *_T5)
    files = (
        (repository, weights_file),
        (repository, "ae.safetensors"),
        *((_CLIP_REPOSITORY, file) for file in clip_files),
        *_T5_TOKENIZER,
    )
    return ModelEntry(
        name=name,
        description=description,
        load=partial(_load, name, Source(name), files),
        batch_bytes=partial(_batch_bytes, name),
        image_size=512,
        max_image_size=2048,
        image_size_multiple=16,
        latent_channels=16,
        pixels_per_latent=PIXELS_PER_LATENT,
        noise=NOISE,
        schedule=flux_schedule(FLUX_SHIFT),
        repository=repository,
        files=files,
        latent_scale=0.3611,
        latent_shift=0.1159,
        **settings,
    )


TINY = ModelEntry(
    name="tiny",
    description="embedded, trained on coloured shapes",
    load=_load_tiny,
    image_size=64,
    max_image_size=MAX_IMAGE_SIZE_OF_TINY,
    image_size_multiple=16,
    num_steps=50,
    latent_channels=16,
    pixels_per_latent=PIXELS_PER_LATENT,
    noise=NOISE,
    schedule=sd3_schedule(3.0),
    cfg_weight=3.0,
    guided=True,
    prompts=shape_captions,
    weight_bytes=5_690_666,
    batch_bytes=_batch_bytes_of_tiny,
    licence="MIT",
    latent_scale=1.5305,
    latent_shift=0.0609,
)
# Bytes are counted from the architectures; licences are those that pages on the web, not always
# the models' own, named for the original models on LICENCES_READ. Whether argmaxinc's copies are
# gated is not known.
LICENCES_READ = "2026-11-24"
SD3_MEDIUM = _sd3(
    "sd3-medium",
    "Stable Diffusion 3, 2 billion",
    "argmaxinc/mlx-stable-diffusion-3-medium",
    "sd3_medium.safetensors",
    weight_bytes=15_497_457_120,
    image_size=512,
)
SD35_LARGE = _sd3(
    "sd3.5-large",
    "Stable Diffusion 3.5, 8 billion",
    "argmaxinc/mlx-stable-diffusion-3.5-large",
    "sd3.5_large.safetensors",
    weight_bytes=27_620_262_854,
    image_size=1024,
)
FLUX_SCHNELL = _flux(
    "flux-schnell",
    "FLUX.1 distilled, 12 billion",
    "argmaxinc/mlx-FLUX.1-schnell",
    "flux-schnell.safetensors",
    weight_bytes=33_720_972_230,
    licence="Apache-2.0",
    num_steps=4,
)
FLUX_DEV = _flux(
    "flux-dev",
    "FLUX.1, 12 billion",
    "argmaxinc/mlx-FLUX.1-dev",
    "flux1-dev.safetensors",
    weight_bytes=33_741_431_750,
    licence="FLUX.1 [dev] non-commercial",
    num_steps=50,
    guidance=GUIDANCE,
)

MODELS = {entry.name: entry for entry in (TINY, SD3_MEDIUM, SD35_LARGE, FLUX_SCHNELL, FLUX_DEV)}


def of_weights(name: str) -> ModelEntry:
    """The entry of weights of one's own: a file, a directory or a repository of the Hub.

    Raises:
        OptionError: if they are not here, or of no known architecture.
    """
    return _of_weights(name)[0]


def _of_weights(name: str) -> tuple[ModelEntry, Source]:
    name = sources.full_name(name)
    source = sources.find(name)
    entry = MODELS[source.architecture]
    # Of the model's own files, these may leave one in use: the last, which has its decoder.
    replaced = [pair for pair in entry.files if pair[0] == entry.repository]
    if source.decoder is None:
        del replaced[-1]
    files = tuple(pair for pair in entry.files if pair not in replaced)
    others = replace(
        entry,
        name=name,
        description=f"{entry.description}, other weights",
        load=partial(_load, name, source, files),
        licence=None,
        files=files,
    )
    return others, source


def load_pipeline(path: str | Path) -> Any:
    """Load a quantized checkpoint as one of DiffusionKit's pipelines.

    Float weights of what it holds, the transformer and perhaps T5, are never loaded; the other
    text encoders and the decoder come from where the model has them, downloaded if need be.

    Args:
        path: directory of the checkpoint.

    Returns:
        A ``diffusionkit.mlx.DiffusionPipeline``, with ``generate_image`` and the rest of it.

    Raises:
        StoreError: if it is no checkpoint, is damaged, or is of a model that is not here.
        FileNotFoundError: if weights of the text encoders or the decoder cannot be had.
        OutOfMemoryError: if the process is limited to less memory than MLX needs.
    """
    memory.check_address_space()
    from calibzarr.models.quantized import pipeline

    directory = Path(path)
    name = layout.read_config(directory)["model"]
    if name == TINY.name:
        return pipeline.load_tiny(directory)
    try:
        entry, source = (MODELS[name], Source(name)) if name in MODELS else _of_weights(name)
    except OptionError as error:
        raise StoreError(f"{directory} is of {name}, which is not here: ", error.message) from None
    held = _T5 if layout.has_t5(directory) else ()
    transformer = MODELS[source.architecture].files[0][1]  # SD3's has its decoder as well
    held = (*held, transformer) if is_flux(source.architecture) else held
    hub.check(name, [pair for pair in entry.files if pair[1] not in held])
    return pipeline.load(directory, source.architecture, _version(source), source.decoder)


def load_checkpoint(path: str | Path) -> "Model":
    """Load a quantized checkpoint as a model; see :func:`load_pipeline`."""
    pipeline = load_pipeline(path)
    from calibzarr.models.diffusionkit import DiffusionKitModel

    return DiffusionKitModel(layout.read_config(Path(path))["model"], pipeline)
