"""Weights of one's own for a known architecture: which files they are, and of what kind."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibzarr.errors import Call, OptionError
from calibzarr.models.loading import hub
from calibzarr.models.loading.architectures import is_flux

SD3_PREFIX = "model.diffusion_model."  # of the transformer's weights, where others are beside them

_MOST_HEADER_BYTES = 2**26
FLUX_DECODER = "ae.safetensors"
_DECODER = "decoder.conv_in.weight"  # a weight of either naming
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_DTYPES = {"F16", "BF16", "F32", "U32"}  # the last of packed levels
_REFUSED = (  # what a name of a weight tells of a file
    ("lora_", "holds a LoRA alone; merge it into its model, and give that"),
    ("transformer_blocks.0.attn.to_q", "has diffusers' names; give a file of the original names"),
    ("joint_blocks.0.x_block.attn2", "is of Stable Diffusion 3.5 medium, which is not known here"),
)


@dataclass(frozen=True)
class Source:
    """Files of weights that are not a model's own.

    Attributes:
        architecture: name of the model whose architecture they are of.
        transformer: file of the transformer; None if it is the model's own.
        decoder: file of the decoder; None if it is the model's own.
        of_diffusionkit: whether the names are DiffusionKit's, as of its quantized checkpoints.
    """

    architecture: str
    transformer: Path | None = None
    decoder: Path | None = None
    of_diffusionkit: bool = False


def is_one(name: str) -> bool:
    """Whether a name may be a file, a directory or a repository of the Hub, and no model's."""
    return name.endswith(".safetensors") or "/" in name or Path(name).exists()


def is_repository(name: str) -> bool:
    """Whether a name can only be a repository of the Hub."""
    return _REPOSITORY.fullmatch(name) is not None and not Path(name).exists()


def full_name(name: str) -> str:
    """A name that means the same from everywhere."""
    return name if is_repository(name) else str(Path(name).expanduser().resolve())


def short_name(name: str) -> str:
    """What to call files that are made with weights."""
    return Path(name).name.removesuffix(".safetensors")


def find(name: str) -> Source:
    """The weights that a file, a directory or a repository has, if it is on this machine.

    Raises:
        OptionError: if there are none, or are of no known architecture.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if not is_repository(name):
            raise OptionError(f"there is no {name}, and no model of that name")
        cached = hub.cached_snapshot(name)
        if cached is None:
            raise OptionError(
                f"{name} is no model, no file and no repository that is on this machine; if it is "
                "one of the Hub's: ",
                Call("download", (name,)),
            )
        path = cached
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    candidates = [file for file in files if file.name != FLUX_DECODER]
    if path.is_dir() and (path / "config.json").is_file() and _is_ours(path / "config.json"):
        raise OptionError(f"{name} is a checkpoint of calibzarr's, which runs beside a reference")
    if len(candidates) != 1:
        found = ", ".join(file.name for file in candidates[:5]) or "none"
        raise OptionError(f"{name} has to have one file of weights, *.safetensors; it has {found}")
    return _source(candidates[0])


def _is_ours(config: Path) -> bool:
    try:
        content = json.loads(config.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"model", "quantization"} <= content.keys()


def _source(file: Path) -> Source:
    names = header(file)
    architecture, of_diffusionkit = architecture_of(file, names)
    dtypes = {str(tensor.get("dtype")) for name, tensor in names.items() if "blocks." in name}
    if others := dtypes - _DTYPES:  # MLX would take numbers of 8 bits for whole ones
        raise OptionError(f"{file} has weights of {min(others)}; give one of 16 or 32 bits")
    beside = file.with_name(FLUX_DECODER)
    decoder: Path | None = None
    if any(name.endswith(_DECODER) for name in names):
        decoder = file
    elif is_flux(architecture) and beside.is_file():
        decoder = beside
    return Source(architecture, file, decoder, of_diffusionkit)


def header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors, by their names.

    Raises:
        OptionError: if it is none.
    """
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if not 2 <= size <= _MOST_HEADER_BYTES:
                raise ValueError("its beginning is none")
            content = json.loads(opened.read(size))
        if not isinstance(content, dict):
            raise ValueError("its header is no object")
        content.pop("__metadata__", None)
        if not all(isinstance(tensor, dict) for tensor in content.values()):
            raise ValueError("its header describes no tensors")
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{file} is no safetensors file: {error}") from None
    return content


def architecture_of(file: Path, names: Collection[str]) -> tuple[str, bool]:
    """The model whose architecture is that of a file, and whether names are DiffusionKit's.

    Raises:
        OptionError: if it is not known.
    """
    text = "\n".join(names)
    for part, reason in _REFUSED:
        if part in text:
            raise OptionError(f"{file} {reason}")
    if "double_blocks.0." in text and "single_blocks.0." in text:
        return "flux-dev" if "guidance_in." in text else "flux-schnell", False
    if "joint_blocks.0." in text:
        return "sd3.5-large" if ".attn.ln_q." in text else "sd3-medium", False
    if "multimodal_transformer_blocks.0." in text:
        if "unified_transformer_blocks.0." in text:
            return "flux-dev" if "guidance_in." in text else "flux-schnell", True
        return "sd3.5-large" if ".qk_norm." in text else "sd3-medium", True
    first = min(names, default="nothing")
    raise OptionError(
        f"{file} is of no known architecture (Stable Diffusion 3 medium and 3.5 large, FLUX.1 "
        f"schnell and dev); it has {first[:80]}"
    )
