"""The format as data: every dimension, variable, dtype, chunk and unit, and the version.

Nothing else spells the layout of a store; ``stores/README.md`` explains it to readers.
"""

from collections.abc import Container, Mapping
from typing import Any

from calibzarr.storage.variable import Addition, Variable

FORMAT = "calibzarr"
FORMAT_VERSION = 1

IMAGE_CHUNK = 1024  # images in one chunk of a coordinate: small, and a store may still grow
_IN_UNITS = ", in activation units"


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
    fill_value=-1,  # no seed: what a lost chunk reads as
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
    "states of the sampler, from noise to picture, in latent units",
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

REFERENCE = "reference"  # the attribute of a run that says whose images it makes again
QUANTIZED = "quantized"  # the attribute of a run that says what its model is quantized by
FITTED_IMAGES = "fitted_images"  # in it: those of the reference that a checkpoint was fitted to
BY_CONFIGURATION = "configuration"  # the kind that a run holds itself
BY_CHECKPOINT = "checkpoint"  # the kind that is a directory of its own
QUANTIZATION_CONFIG = Variable(
    "quantization_config", (), "string", "what the model was quantized by, in JSON", fill_value=""
)


def build_variables(attributes: Mapping[str, Any]) -> tuple[Variable, ...]:
    """The variables of a build with this manifest."""
    quantized = attributes.get(QUANTIZED)
    if isinstance(quantized, dict) and quantized.get("kind") == BY_CONFIGURATION:
        return (*BUILD_VARIABLES, QUANTIZATION_CONFIG)
    return BUILD_VARIABLES


def _by_layer(name: str, dims: str, dtype: str, description: str) -> Variable:
    """A statistic; one chunk holds all layers of a step, or all there is where that is small."""
    all_dims = ("layer", *dims.split())
    return Variable(
        name,
        all_dims,
        dtype,
        description,
        chunk={} if all_dims == ("layer", "step") else {"step": 1, "image": IMAGE_CHUNK},
        fill_value=float("nan") if dtype.startswith("float") else 0,
    )


def _about_layers(
    name: str, description: str, dtype: str = "string", *, optional: bool = False
) -> Variable:
    fill: str | int = "" if dtype == "string" else False if dtype == "bool" else 0
    return Variable(
        name, ("layer",), dtype, description, coordinate=True, fill_value=fill, optional=optional
    )


def _values(name: str, dims: str, description: str, dtype: str = "float32") -> Variable:
    return _by_layer(name, dims, dtype, description + _IN_UNITS)


STATISTICS = (
    _by_layer("histogram", "step bin", "int64", "observed values in each bin"),
    _by_layer("non_finite_count", "step", "int64", "infinities and NaN, counted nowhere else"),
    _by_layer("value_count", "step", "int64", "observed finite values"),
    _values("value_min", "step", "least value"),
    _values("value_max", "step", "greatest value"),
    _values("value_mean", "step", "mean of all values", "float64"),
    _values("value_std", "step", "standard deviation of all values", "float64"),
    _values("image_min", "step image", "least value of an image"),
    _values("image_max", "step image", "greatest value of an image"),
    _values("image_mean", "step image", "mean of an image's values"),
    _values("image_std", "step image", "standard deviation of an image"),
    _values("feature_min", "step feature", "least value of a feature"),
    _values("feature_max", "step feature", "greatest value of a feature"),
    _values("feature_mean_min", "step feature", "mean over images of their least"),
    _values("feature_mean_max", "step feature", "mean over images of their greatest"),
)
WEIGHT_STATISTICS = (
    _by_layer("weight_histogram", "bin", "int64", "weights in each bin"),
    _by_layer("weight_feature_max", "feature", "float32", "greatest magnitude by input feature"),
)
LAYER_COORDINATES = (
    _about_layers("layer", "name"),
    _about_layers("module", "path in the model's parameter tree"),
    _about_layers("block", "block that it is part of"),
    _about_layers("stream", "image, text or unified"),
    _about_layers("kind", "which linear layer of its block, or block"),
    _about_layers("role", "input of a linear layer, or output of a block"),
    _about_layers("features", "width of the observed values", "int64"),
    _about_layers("input_group", "first of the layers that read the same values", optional=True),
    _about_layers("tied_group", "first of the layers that get equal bits", optional=True),
    _about_layers("follows", "activation function that the values leave, if any", optional=True),
    _about_layers(
        "text_only", "whether the values are the same at every step", "bool", optional=True
    ),
)
BIN_COORDINATES = tuple(
    Variable(name, ("bin",), "float64", words + _IN_UNITS, coordinate=True, optional=optional)
    for name, words, optional in (
        ("bin_low", "lower edge of the bin", False),
        ("bin_high", "upper edge of the bin", False),
        ("bin_center", "middle of the bin, or its finite edge", True),
    )
)
COLLECTED = Variable(
    "collected",
    ("step",),
    "bool",
    "whether statistics cover the step",
    coordinate=True,
    fill_value=False,
)
COLLECTED_IMAGE = Variable(
    "collected_image",
    ("image",),
    "bool",
    "whether statistics cover the image",
    chunk={"image": IMAGE_CHUNK},
    coordinate=True,
    fill_value=False,
)
OBSERVED = Variable(
    "observed",
    ("layer", "step"),
    "bool",
    "whether a layer was observed; those of the caching pass are at every call",
    fill_value=False,
    optional=True,
)
COLLECTED_VARIABLES = (
    *STATISTICS,
    *WEIGHT_STATISTICS,
    *LAYER_COORDINATES,
    *BIN_COORDINATES,
    COLLECTED,
    COLLECTED_IMAGE,
    OBSERVED,
)

ACTIVATIONS = "activations"  # the attribute that says what was collected
SENSITIVITY = "sensitivity"  # the attribute that says how sensitivities were measured
IMPORTED = "imported"  # the attribute that only a store from another format has


def _measured(
    name: str,
    dims: str,
    dtype: str,
    description: str,
    units: str = "1",
    *,
    coordinate: bool = False,
) -> Variable:
    fill: float | int | str = float("nan") if dtype.startswith("float") else 0
    return Variable(
        name,
        tuple(dims.split()),
        dtype,
        description,
        units,
        chunk={"sensitivity_step": 1},
        fill_value="" if dtype == "string" else fill,
        coordinate=coordinate,
    )


SENSITIVITY_COORDINATES = (
    _measured("sensitivity_step", "sensitivity_step", "int64", "index of a call", coordinate=True),
    _measured(
        "sensitivity_image", "sensitivity_image", "int64", "index of an image", coordinate=True
    ),
    _measured("probe", "probe", "int64", "number of a random probe", coordinate=True),
    _measured("quantizer", "quantizer", "string", "name of a scheme with bits", coordinate=True),
    _measured("quantizer_kind", "quantizer", "string", "activation or weight", coordinate=True),
    _measured("quantizer_scheme", "quantizer", "string", "what shares a scale", coordinate=True),
    _measured(
        "quantizer_bits", "quantizer", "int64", "bits without scales", "bit", coordinate=True
    ),
)
_BY_QUANTIZER = "layer sensitivity_step quantizer"
SENSITIVITY_VARIABLES = (
    *SENSITIVITY_COORDINATES,
    _measured(
        "signed_product",
        f"{_BY_QUANTIZER} sensitivity_image probe",
        "float32",
        "sum of gradient times quantization error for one probe of the guided output",
    ),
    *(
        variable
        for kind in ("activation", "weight")
        for variable in (
            _measured(
                f"{kind}_sensitivity",
                _BY_QUANTIZER,
                "float32",
                "squared error of the guided output, over its power, when this alone is quantized",
            ),
            _measured(
                f"{kind}_sensitivity_error",
                _BY_QUANTIZER,
                "float32",
                f"standard error of {kind}_sensitivity",
                "dB",
            ),
        )
    ),
    _measured(
        "output_power",
        "sensitivity_step sensitivity_image",
        "float64",
        "sum of squares of the guided output",
    ),
    *(
        _measured(
            f"sensitivity_clip_{end}",
            "layer quantizer",
            "float32",
            f"{which} end of the range that inputs are quantized in{_IN_UNITS}",
        )
        for end, which in (("min", "lower"), ("max", "upper"))
    ),
    _measured(
        "amplification",
        "step",
        "float32",
        "share of the energy of an error made at a call that is left at the end",
    ),
)

MEASUREMENT = Addition(SENSITIVITY, SENSITIVITY_VARIABLES, title="sensitivities")
COLLECTION = Addition(ACTIVATIONS, COLLECTED_VARIABLES, title="statistics")
ADDITIONS = (COLLECTION, MEASUREMENT)
VARIABLES = (
    *BUILD_VARIABLES,
    QUANTIZATION_CONFIG,
    *(variable for addition in ADDITIONS for variable in addition.variables),
)
NAMES = frozenset(variable.name for variable in VARIABLES)
"""Of calibzarr's own variables: any others are a user's."""


def collected_variables(names: Container[str]) -> tuple[Variable, ...]:
    """The variables of a collection, optional ones if ``names`` has one that came with them."""
    came_together = (
        [variable for variable in LAYER_COORDINATES if variable.optional],
        [OBSERVED],
        [variable for variable in BIN_COORDINATES if variable.optional],
    )
    absent = [
        variable
        for variables in came_together
        if not any(variable.name in names for variable in variables)
        for variable in variables
    ]
    return tuple(variable for variable in COLLECTED_VARIABLES if variable not in absent)


LATENT_DTYPES = ("float32", "float16")

GUIDANCE = "guidance"  # in manifests of models that are told of one

# Attributes that the root's digest covers; any others are a user's.
ATTRIBUTES = frozenset(
    (
        *("format", "format_version", "integrity", "libraries", "created", "n_completed"),
        *("num_images", "prompts_sha256", "prompt_source", "tokens_sha256"),
        *("legacy_statistics", REFERENCE),
        *(QUANTIZED, "noise", "schedule", ACTIVATIONS, SENSITIVITY, IMPORTED),
        *("model", "model_fingerprint", "num_steps", "cfg_weight", "image_size", "latent_dtype"),
        *("activation_dtype", "sampler", "seed", "batch_size", GUIDANCE),
    )
)

# Attributes that change when a store grows.
GROWING = ("num_images", "prompts_sha256", "prompt_source", "tokens_sha256")

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

# The same, in manifests that name them; the first stores did not, and theirs are DiffusionKit's.
FORMULAS = ("noise", "schedule")
