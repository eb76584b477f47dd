"""Export of a recommendation: to the quantization configuration, or to another format."""

from pathlib import Path

import xarray as xr

from calibzarr.advice import recommendation
from calibzarr.advice.choices import (
    ACTIVATION_TARGET,
    FILE_FORMATS,
    WEIGHT_TARGET,
    Clip,
    FileFormat,
    Granularity,
)
from calibzarr.advice.options import Options, one_of
from calibzarr.export import mlx
from calibzarr.export.configuration import configuration, validate
from calibzarr.export.destination import check_free
from calibzarr.export.writing import ConfigurationResult, as_json, bits_in_words, unmet
from calibzarr.storage import durable
from calibzarr.storage.reading import open_statistics


def export(
    path: str | Path,
    file: str | Path,
    *,
    file_format: FileFormat = "json",
    granularity: Granularity = "all",
    force: bool = False,
    method: str = "sqnr",
    activation_target: float = ACTIVATION_TARGET,
    weight_target: float = WEIGHT_TARGET,
    mean_bits: float | None = None,
    clip: Clip = "mse",
) -> ConfigurationResult:
    """Recommend a quantization of a store's model, and write it down.

    Args:
        path: directory of the store.
        file: to write.
        file_format: ``json``, or ``mlx`` for what ``mlx.nn.quantize`` takes.
        granularity: see :func:`calibzarr.export.configuration.configuration`.
        force: whether to overwrite ``file``.
        method: see :func:`calibzarr.recommend`, as for all that follow.
        activation_target: dB.
        weight_target: dB.
        mean_bits: upper bound.
        clip: how clipping ranges are chosen.

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
    )
    one_of("file_format", file_format, FILE_FORMATS)
    check_free(file, [path], force=force)
    statistics = open_statistics(path)
    recommended = recommendation.of_statistics(statistics, options)
    if file_format == "mlx":
        return mlx.write(recommended, file)
    return _write(recommended, file, granularity)


def _write(recommended: xr.Dataset, file: Path, granularity: Granularity) -> ConfigurationResult:
    content = configuration(recommended, granularity)
    validate(content)
    durable.write(file, as_json(content))
    return ConfigurationResult(
        num_layers=len(content["layer_configs"]),
        bits=bits_in_words(recommended, ("activation", "weight")),
        warnings=tuple(unmet(recommended).values()),
    )
