"""What a quantized checkpoint says of itself, in words and in JSON types."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from calibzarr.export.checkpoint import Choice
from calibzarr.export.checkpoint_allocation import Allocation
from calibzarr.export.checkpoint_plan import CheckpointPlan
from calibzarr.export.measured import between_marks
from calibzarr.export.tuning import Tuned
from calibzarr.storage.manifest import fingerprint
from calibzarr.storage.store import stored_prompts

_GIGABYTE = 10**9
_NOT_COMPARED = """\
Pictures are compared with `calibzarr build RUN --reference STORE --model .` and
`calibzarr compare STORE RUN`, which writes here what it measured.
"""
_OTHERS_THAN_T5 = (
    "T5 is in `t5.safetensors`, by the entry `t5_quantization`. Other text encoders and the "
    "decoder are"
)
_TEXT = """\
# {model}, quantized

{summary}

{quality}

Output SQNR: power of the guided output over that of its error, at states of the unquantized model,
mean over {calls} calls. Predictions are of rounding to the nearest level, from the sensitivities.

{measured}

## Loading

```python
import calibzarr

pipeline = calibzarr.load_pipeline("{name}")  # DiffusionKit's, with generate_image
```

Or with MLX alone, on DiffusionKit's transformer `mmdit`:

```python
import json

import mlx.nn as nn

quantization = json.load(open("{name}/config.json"))["quantization"]
nn.quantize(mmdit, class_predicate=lambda path, _: quantization.get(path, False))
mmdit.load_weights("{name}/model.safetensors")
```

`mlx_lm.utils.load_model` reads the same `config.json`. {others} not in here, and stay as they are.
{memory}

## Provenance

Weights of fingerprint `{fingerprint}`; sensitivities of `{store}`; {rounding}.
Layers that stay as they are: {kept}.
"""


@dataclass(frozen=True)
class QuantizeResult:
    """What was made.

    Attributes:
        path: directory of the checkpoint.
        allocation: bits and groups, and what they come to.
        output_sqnr_db: measured on images that nothing was fitted to, by call; None if there are
            too few.
        memory: bytes of the weights of the whole pipeline, by module.
        interrupted: whether the user stopped it; what is rounded so far is kept for the next time.
        tuned: what tuning did; None without.
        t5: how T5's layers are quantized; None where T5 stays as it is.
    """

    path: Path
    allocation: Allocation
    output_sqnr_db: dict[int, float] | None
    memory: dict[str, int]
    interrupted: bool
    tuned: Tuned | None = None
    t5: Choice | None = None


def summary(allocation: Allocation) -> str:
    """Bits, size and what stays, in a sentence each."""
    settings = Counter(
        (quantizer.bits, quantizer.group_size) for _, quantizer in allocation.choice.quantized()
    )
    widths = Counter[int]()
    for (bits, _), count in settings.items():
        widths[bits] += count
    listed = ", ".join(f"{widths[bits]} of {bits} bits" for bits in sorted(widths))
    kept = ""
    if allocation.kept:
        number, weights = len(allocation.kept), allocation.kept_weights
        kept = f" {number} layers with {weights} weights stay as they are"
        if allocation.unfit:
            kept += f", of which no group divides the width of {', '.join(allocation.unfit)}"
        kept += "."
    return (
        f"{allocation.bits_per_weight:.3f} bits per weight with scales and biases, "
        f"{_gigabytes(allocation.file_size)} in all; layers: {listed}.{kept}"
    )


def text_encoder(t5: Choice | None) -> list[str]:
    """How T5 is quantized, in a line; none where it stays as it is."""
    if t5 is None:
        return []
    settings = Counter((q.bits, q.group_size) for _, q in t5.quantized())
    listed = [
        f"{count} linear layers of {b} bits in groups of {g}" for (b, g), count in settings.items()
    ]
    unfit = [layer.name for layer, q in zip(t5.layers, t5.quantizers, strict=True) if q is None]
    if unfit:
        listed.append(f"{', '.join(unfit)} stay as they are: no group divides their width")
    return [f"T5: {'; '.join(listed)}."]


def card(plan: CheckpointPlan, rounding: str, result: QuantizeResult) -> str:
    """The text of a checkpoint's ``README.md``."""
    allocation, t5 = result.allocation, result.t5
    lines = quality(allocation, result.output_sqnr_db)
    if result.tuned is not None:
        lines.append(result.tuned.in_words())
    calibration = ""
    if rounding == "gptq":
        calibration = f" from {len(plan.images)} images at {len(plan.steps)} calls"
    return _TEXT.format(
        model=plan.root.attributes["model"],
        summary="\n\n".join([summary(allocation), *text_encoder(t5)]),
        quality="\n".join(f"- {line}" for line in lines),
        calls=len(plan.measured.steps),
        measured=between_marks(_NOT_COMPARED).rstrip(),
        name=plan.out.name,
        others="Text encoders and decoder are" if t5 is None else _OTHERS_THAN_T5,
        memory=memory_in_words(result.memory),
        fingerprint=plan.root.attributes["model_fingerprint"],
        rounding=("rounded by GPTQ" if rounding == "gptq" else "rounded to the nearest level")
        + calibration,
        store=plan.root.path.name,
        kept=", ".join(f"`{name}`" for name in allocation.kept) or "none",
    )


def quality(allocation: Allocation, measured: Mapping[int, float] | None) -> list[str]:
    """What is predicted and measured, a line each."""
    lines = [f"predicted output SQNR {allocation.output_sqnr_db:.1f} dB"]
    if (uniform := allocation.uniform) is not None:
        lines[0] += (
            f", of {uniform.bits} bits in groups of {uniform.group_size} everywhere "
            f"({uniform.cost(1):g} bits per weight) {allocation.uniform_sqnr_db:.1f} dB"
        )
    if measured:
        lines.append(
            f"measured output SQNR {fmean(measured.values()):.1f} dB, on images that nothing was "
            "fitted to"
        )
    return lines


def memory_in_words(memory: Mapping[str, int]) -> str:
    """What the weights of the whole pipeline take."""
    modules = ", ".join(f"{name} {_gigabytes(size)}" for name, size in memory.items())
    return f"The whole pipeline takes {_gigabytes(sum(memory.values()))} of weights: {modules}."


def provenance(plan: CheckpointPlan, rounding: str, result: QuantizeResult) -> dict[str, Any]:
    """What ``config.json`` says of how a checkpoint was made."""
    root, tuned = plan.root, result.tuned
    images = list(plan.images) if rounding == "gptq" else []
    about = {
        "store": {
            "fingerprint": fingerprint(root.attributes, *stored_prompts(root)),
            "num_images": root.num_images,
        },
        "bits_per_weight": result.allocation.bits_per_weight,
        "rounding": rounding,
        "images": images,
        "steps": list(plan.steps) if rounding == "gptq" else [],
        "fitted_images": sorted({*images, *(plan.training if tuned and tuned.kept else ())}),
        "predicted_output_sqnr_db": result.allocation.output_sqnr_db,
    }
    return about if tuned is None else {**about, "tuning": asdict(tuned)}


def _gigabytes(size: int) -> str:
    return f"{size / _GIGABYTE:.3g} GB" if size >= _GIGABYTE / 10 else f"{size / 10**6:.3g} MB"
