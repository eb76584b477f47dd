"""What a quantized checkpoint is to be, and from which images: checked before a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibzarr.collecting import measured as measurements
from calibzarr.collecting.layer_inputs import choose_calls, choose_images
from calibzarr.errors import Call, Message, Option, OptionError, StoreError, at_least
from calibzarr.export import checkpoint
from calibzarr.quantization.prediction import Measured
from calibzarr.quantization.quantizers import MLX_BITS, MLX_GROUPS
from calibzarr.storage.manifest import Root, check_known, read_root, refuse_runs

NUM_HELD_OUT = 8
_LEAST_IMAGES = 12  # of which 8 are held out


@dataclass(frozen=True)
class CheckpointPlan:
    """What is known of a checkpoint before its model is loaded.

    Attributes:
        root: of the store.
        out: directory to make.
        measured: the store's sensitivities.
        bits_per_weight: mean to reach, scales counted; or None.
        size: bytes of ``model.safetensors`` to reach; or None.
        groups: sizes of groups to choose from.
        keep: patterns of names of layers that stay as they are.
        images: that Hessians are of.
        held_out: other images, for measuring; none where the store has too few.
        steps: calls that Hessians are of.
        tune: minutes of tuning; or None.
        training: images to tune on: all that are not held out.
        notes: what the user has to know.
        t5: bits of T5's linear layers; None where T5 stays as it is.
    """

    root: Root
    out: Path
    measured: Measured
    bits_per_weight: float | None
    size: float | None
    groups: tuple[int, ...]
    keep: tuple[str, ...]
    images: tuple[int, ...]
    held_out: tuple[int, ...]
    steps: tuple[int, ...]
    notes: tuple[Message, ...]
    tune: float | None = None
    training: tuple[int, ...] = ()
    t5: int | None = None


def plan(
    path: str | Path,
    out: str | Path,
    *,
    bits_per_weight: float | None,
    size: float | None,
    groups: Sequence[int],
    keep: Sequence[str],
    images: int,
    tune: float | None = None,
    t5: int | None = None,
) -> CheckpointPlan:
    """Check what can be checked without the model; see :func:`calibzarr.quantize`.

    Raises:
        OptionError: if a value is not allowed.
        StoreError: if the store has no sensitivities, or is not one to replay.
        TakenError: if something stands at ``out``.
    """
    _check_options(bits_per_weight, size, groups, images, t5)
    root = read_root(Path(path))
    checkpoint.check_free(Path(out))
    check_known(root.path, root.attributes)
    refuse_runs(root.path, root.attributes, "quantize")
    if tune is not None:
        _check_tunable(root, tune)
    measured = measurements.read(root)
    complete = choose_images(root, root.num_images)
    held_out: tuple[int, ...] = ()
    if len(complete) >= _LEAST_IMAGES:
        held_out = tuple(complete[i * len(complete) // NUM_HELD_OUT] for i in range(NUM_HELD_OUT))
    elif tune is not None:
        raise StoreError(_too_few(root.path, len(complete)))
    others = [image for image in complete if image not in held_out]
    count = min(images, len(others))
    fitted = tuple(others[i * len(others) // count] for i in range(count))
    return CheckpointPlan(
        root=root,
        out=Path(out),
        measured=measured,
        bits_per_weight=bits_per_weight,
        size=size,
        groups=tuple(groups),
        keep=tuple(keep),
        images=fitted,
        held_out=held_out,
        steps=choose_calls("key", root.attributes["num_steps"]),
        notes=() if held_out else (_too_few(root.path, len(complete)),),
        tune=tune,
        training=tuple(others),
        t5=t5,
    )


def _check_options(
    bits_per_weight: float | None,
    size: float | None,
    groups: Sequence[int],
    images: int,
    t5: int | None,
) -> None:
    if (bits_per_weight is None) == (size is None):
        raise OptionError("give either ", Option("bits_per_weight"), " or ", Option("size"))
    for name, value in (("bits_per_weight", bits_per_weight), ("size", size)):
        if value is not None and not 0 < value < float("inf"):
            raise OptionError(Option(name), f" must be above 0, got {value}")
    at_least("images", images, 1)
    if not groups or not set(groups) <= set(MLX_GROUPS):
        wanted = ", ".join(map(str, groups)) or "none"
        raise OptionError(
            Option("groups"), f" must be of {', '.join(map(str, MLX_GROUPS))}, got {wanted}"
        )
    if t5 not in (None, *MLX_BITS):
        raise OptionError(
            Option("t5"), f" must be one of {', '.join(map(str, MLX_BITS))}, got {t5}"
        )


def _check_tunable(root: Root, tune: float) -> None:
    if not 0 < tune < float("inf"):
        raise OptionError(Option("tune"), f" must be minutes above 0, got {tune}")
    if (dtype := root.attributes["latent_dtype"]) != "float32":
        raise StoreError(
            f"{root.path} holds states in {dtype}, too coarse to tune by; build a store in float32"
        )


def _too_few(path: Path, count: int) -> Message:
    return Message(
        f"quality is measured on {NUM_HELD_OUT} images that nothing was fitted to; "
        f"{_LEAST_IMAGES} or more are needed for that, {path} has {count}; build more with: ",
        Call("build", (path,), {"resume": True, "num_images": 56}),
    )
