"""Export of a recommendation: to the quantization configuration, or to another format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice import features as recommended_features
from calibzarr.advice import recommendation
from calibzarr.advice.choices import (
    ACTIVATION_TARGET,
    ALPHA,
    FILE_FORMATS,
    TOLERANCE,
    WEIGHT_TARGET,
    Clip,
    FileFormat,
    Granularity,
)
from calibzarr.advice.options import Options, one_of
from calibzarr.errors import Message, Option, OptionError, StoreError, TakenError
from calibzarr.export import mlx
from calibzarr.export.configuration import configuration, validate
from calibzarr.export.writing import ConfigurationResult, as_json, bits_in_words, unmet
from calibzarr.quantization.features import OUTLIER_FACTOR
from calibzarr.storage import durable, objects
from calibzarr.storage.reading import open_statistics
from calibzarr.storage.schema import ACTIVATIONS


def export(
    path: str | Path,
    file: str | Path,
    *,
    file_format: FileFormat = "json",
    granularity: Granularity = "all",
    smoothquant_alpha: float | None = ALPHA,
    force: bool = False,
    method: str = "sqnr",
    activation_target: float = ACTIVATION_TARGET,
    weight_target: float = WEIGHT_TARGET,
    mean_bits: float | None = None,
    clip: Clip = "mse",
    groups: int | None = None,
    tolerance: float = TOLERANCE,
) -> ConfigurationResult:
    """Recommend a quantization of a store's model, and write it down.

    Args:
        path: directory of the store.
        file: to write.
        file_format: ``json``, or ``mlx`` for what ``mlx.nn.quantize`` takes.
        granularity: see :func:`calibzarr.export.configuration.configuration`.
        smoothquant_alpha: of the smoothing scales among the advice for each feature, which is
            written into the store with ``json``; None for no such advice.
        force: whether to overwrite ``file``.
        method: see :func:`calibzarr.recommend`, as for all that follow.
        activation_target: dB.
        weight_target: dB.
        mean_bits: upper bound.
        clip: how clipping ranges are chosen.
        groups: of steps.
        tolerance: of polynomials in sigma.

    Raises:
        OptionError: if an option does not fit, or no layer reaches a target.
        ValueError: if the store has no statistics, or cannot be used.
        OSError: if the file exists, or something cannot be written.
    """
    path, file = Path(path), Path(file)
    options = Options(
        method=method,
        activation_target=activation_target,
        weight_target=weight_target,
        mean_bits=mean_bits,
        clip=clip,
        groups=groups,
        tolerance=tolerance,
    )
    one_of("file_format", file_format, FILE_FORMATS)
    if smoothquant_alpha is not None and not 0 <= smoothquant_alpha <= 1:
        raise OptionError(
            Option("smoothquant_alpha"), f" must be in [0, 1], got {smoothquant_alpha!r}"
        )
    _check_free(path, file, force=force)
    statistics = open_statistics(path)
    objects.check_writable(file.parent)
    recommended = recommendation.of_statistics(statistics, options)
    if file_format == "mlx":
        return mlx.write(recommended, file)
    advice = None
    if smoothquant_alpha is not None:
        objects.check_writable(path)
        advice = _advice(path, statistics, smoothquant_alpha)
    return _write(recommended, file, granularity, advice)


@dataclass(frozen=True)
class _Advice:
    """Advice for each feature, and the store that it goes into."""

    path: Path
    values: dict[str, np.ndarray]
    attributes: dict[str, Any]

    def described(self) -> dict[str, Any]:
        """What the configuration says of it."""
        variables = sorted(self.values)
        return {"store": self.path.resolve().name, "variables": variables, **self.attributes}

    def warnings(self, recommended: xr.Dataset) -> list[Message]:
        """Whether smoothing scales are too large for the bits of their weights."""
        risky = recommended_features.risky_layers(self.values, recommended.weight_bits.values)
        if not risky.any():
            return []
        return [
            Message(
                f"smoothing scales of {risky.sum()} layers are 32 or more with weights of 4 bits "
                f"or fewer, the first is {recommended.layer.values[risky][0]}: such have made "
                f"models collapse; try a smaller ",
                Option("smoothquant_alpha"),
            )
        ]


def _advice(path: Path, statistics: xr.Dataset, alpha: float) -> _Advice:
    attributes = {
        "smoothquant_alpha": alpha,
        "outlier_factor": OUTLIER_FACTOR,
        "statistics": statistics.attrs[ACTIVATIONS]["stamp"],
    }
    return _Advice(path, recommended_features.compute(statistics, alpha), attributes)


def _write(
    recommended: xr.Dataset, file: Path, granularity: Granularity, advice: _Advice | None
) -> ConfigurationResult:
    features = None if advice is None else advice.described()
    content = configuration(recommended, granularity, features)
    validate(content)
    data = as_json(content)
    if advice is not None:
        recommended_features.write(advice.path, advice.values, advice.attributes)
    durable.write(file, data)
    return ConfigurationResult(
        num_layers=len(content["layer_configs"]),
        bits=bits_in_words(recommended, ("activation", "weight")),
        features=advice is not None,
        warnings=(*unmet(recommended).values(), *(advice.warnings(recommended) if advice else ())),
    )


def _check_free(path: Path, file: Path, *, force: bool) -> None:
    if path.resolve() in file.resolve().parents:
        raise StoreError(f"{file} is within the store; name a file outside of it")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a directory; name a file in it")
    if file.exists() and not force:
        raise TakenError(f"{file} exists already; overwrite it with ", Option("force"))
