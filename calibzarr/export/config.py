"""Export of a recommendation: to the quantization configuration, or to another format."""

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from calibzarr.advice import recommendation
from calibzarr.advice.choices import (
    FILE_FORMATS,
    GRANULARITIES,
    ActivationQuantizer,
    Clip,
    FileFormat,
    Granularity,
    WeightQuantizer,
)
from calibzarr.advice.options import Options, one_of
from calibzarr.errors import Option, OptionError
from calibzarr.export import mlx
from calibzarr.export.configuration import configuration
from calibzarr.export.destination import check_free
from calibzarr.export.writing import ConfigurationResult, as_json, bits_in_words
from calibzarr.quantization.configuration import SCHEMA_VERSION, json_file, parse
from calibzarr.storage import durable
from calibzarr.storage.manifest import read_root


def export_config(
    path: str | Path,
    file: str | Path,
    *,
    file_format: FileFormat = "json",
    granularity: Granularity = "all",
    force: bool = False,
    method: str = "budget",
    weight_bits: float | None = None,
    activation_bits: float | None = None,
    activation_quantizer: ActivationQuantizer = "tensor",
    weight_quantizer: WeightQuantizer | None = None,
    output_db: float | None = None,
    keep: Sequence[str] = (),
    clip: Clip | None = None,
    by_phase: bool | None = None,
) -> ConfigurationResult:
    """Recommend a quantization of a store's model, and write it down.

    Args:
        path: directory of the store.
        file: to write.
        file_format: ``json``, or ``mlx`` for what ``mlx.nn.quantize`` takes.
        granularity: what rows are of: ``linear`` layers, a ``block``, or ``all`` for both.
        force: whether to overwrite ``file``.
        method: ``budget`` for the least error at mean numbers of bits, ``target`` for the fewest
            bits with an error, ``uniform`` for the same everywhere, ``range`` for the old rule.
        weight_bits: mean over weights, with scales: 4 of ``budget``, the fewest of ``target``.
        activation_bits: mean over activations: 8 of ``budget``, the fewest of ``target``.
        activation_quantizer: ``tensor`` for one range, ``token`` for one of each token.
        weight_quantizer: one scale by ``tensor`` or ``row``, or ``mlx`` for MLX's groups; None for
            ``mlx`` in files for MLX, ``row`` in others.
        output_db: of ``target``: SQNR of the guided output, dB.
        keep: patterns, as of file names, of layers that stay unquantized.
        clip: how clipping ranges are chosen; None for that of the sensitivities, or ``lp``.
        by_phase: whether activations are quantized by phase; None where that can be.

    Returns:
        What was written: number of layers, bits in words, warnings, and what is predicted.

    Raises:
        OptionError: if an option does not fit.
        ValueError: if the store has no statistics, or cannot be used.
        OSError: if the file exists, or something cannot be written.
    """
    path, file = Path(path), Path(file)
    one_of("file_format", file_format, FILE_FORMATS)
    one_of("granularity", granularity, GRANULARITIES)
    if file_format == "mlx":
        _check_of_weights_alone(
            weight_quantizer=(weight_quantizer, (None, "mlx")),
            activation_quantizer=(activation_quantizer, ("tensor",)),
            granularity=(granularity, ("all",)),
            by_phase=(by_phase, (None,)),
        )
    options = Options(
        method=method,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        activation_quantizer=activation_quantizer,
        weight_quantizer=weight_quantizer or ("mlx" if file_format == "mlx" else "row"),
        output_db=output_db,
        keep=tuple(keep),
        clip=clip,
        by_phase=by_phase,
    )
    check_free(file, [path], force=force)
    for_mlx = file_format == "mlx"
    recommended = recommendation.of_store(read_root(path), options, with_levers=not for_mlx)
    if for_mlx:
        return mlx.write(recommended, file)
    return _write(recommended, file, granularity)


def _check_of_weights_alone(**given: tuple[object, tuple[object, ...]]) -> None:
    """Refuse what a file of weights' bits has no place for."""
    for name, (value, allowed) in given.items():
        if value not in allowed:
            of = f" must be {allowed[-1]}" if len(allowed) > 1 else " is nothing"
            text = f"{of} in files for MLX, which hold bits of weights alone; got {value}"
            raise OptionError(Option(name), text)


def _write(recommended: xr.Dataset, file: Path, granularity: Granularity) -> ConfigurationResult:
    content = configuration(recommended, granularity)
    json_file.check(content, SCHEMA_VERSION)
    if granularity != "block":
        parse(content)  # what is written can be read
    durable.write_result(file, as_json(content))
    return ConfigurationResult(
        num_layers=len(content["layer_configs"]),
        bits=bits_in_words(recommended, ("activation", "weight")),
        warnings=recommended.attrs["warnings"],
        prediction=recommended.attrs["prediction"],
        levers=tuple(recommended.attrs["levers"]),
    )
