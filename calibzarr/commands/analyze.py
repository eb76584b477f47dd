"""``calibzarr analyze``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calibzarr import strict_json
from calibzarr.advice import choices
from calibzarr.commands import completion
from calibzarr.commands.command import command
from calibzarr.commands.common import (
    hint,
    json_option,
    make_console,
    print_table,
    store_argument,
    table_console,
    tell,
)
from calibzarr.commands.spelling import spelled
from calibzarr.errors import Call, Option

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console
    from rich.table import Table

    from calibzarr.advice.overview import Overview

_SCHEMA_VERSION = 1  # of what --json prints


@command(
    "analyze", {"Which layers": "top sort stream kind", "Output": "as_json csv_file plots force"}
)
@store_argument
@json_option
@click.option(
    "--top", type=click.IntRange(1), show_default="all", help="Print this many layers at most."
)
@click.option(
    "--sort",
    default="model",
    show_default=True,
    metavar="ORDER",
    shell_complete=completion.sorts,
    help="{} or {}; the worst come first.".format(
        ", ".join([*choices.SORTS][:-1]), [*choices.SORTS][-1]
    ),
)
@click.option(
    "--stream",
    show_default="all",
    shell_complete=completion.coordinates,
    help="Print the layers of this stream alone: image, text, unified.",
)
@click.option(
    "--kind",
    show_default="all",
    shell_complete=completion.coordinates,
    help="Print the layers of this kind alone, such as mlp.fc2.",
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the layers and all of their columns here.",
)
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw pictures into this directory; needs matplotlib.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE of --csv.")
def analyze_command(
    store: Path,
    as_json: bool,
    csv_file: Path | None,
    plots: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Tell what each layer of STORE needs, and what bits do.

    A terminal has as many columns as fit, a pipe and FILE have all: SQNR of the guided output,
    dB, if the layer's activations (A) or weights (W) alone had 4, 6, 8 bits; the bits recommended,
    by phase, with means of 4 for weights and 8 for activations; the share of the error that one
    bit more would remove; the range of all values; from p01 to p99; the former over the latter;
    the widest step's range over the narrowest's; asymmetry; SQNR of the values themselves, dB,
    with 8, 6, 4 bits. What is of the output needs sensitivities.

    \b
    calibzarr analyze stores/tiny.zarr
    calibzarr analyze stores/tiny.zarr --sort outliers --top 10 --stream image
    calibzarr analyze stores/tiny.zarr --csv layers.csv --plots plots
    """
    from calibzarr.advice.overview import PARTS, overview
    from calibzarr.advice.summary import csv_text
    from calibzarr.export.destination import check_free
    from calibzarr.progress import reporting
    from calibzarr.storage import durable

    if csv_file is not None:
        check_free(csv_file, [store], force=force)

    if plots is not None:
        from calibzarr.plots import drawing

        drawing.check_installed()  # before the work
    console = make_console(on_terminal_alone=True)
    with reporting(console, "analyze", "part", len(PARTS)) as report:
        result = overview(store, **options, report=report)
    if as_json:
        tell(strict_json.dumps(_content(result), indent=2))
    else:
        _print(result, choices.SORTS[options["sort"]])
    if csv_file is not None:
        durable.write(csv_file, csv_text(result.chosen).encode())
        tell(f"{csv_file}: {result.chosen.sizes['layer']} layers", err=as_json)
    if plots is not None:
        _draw(result, plots, console, err=as_json)
    if not as_json:
        name = store.resolve().with_suffix(".json").name
        hint("write it down with: ", Call("export_config", (store, name)))


def _content(result: "Overview") -> "dict[str, Any]":
    """All of it in JSON types."""
    from calibzarr.advice.summary import rows, units

    return {
        "schema_version": _SCHEMA_VERSION,
        "store": str(result.root.path),
        "targets": {"weight_bits": 4, "activation_bits": 8},
        "units": units(result.chosen),
        "layers": rows(result.chosen),
        **result.description,
        "sensitivity": result.sensitivity,
    }


def _draw(result: "Overview", plots: Path, console: "Console", *, err: bool) -> None:
    from calibzarr.plots import write

    pictures = write(
        plots,
        result.statistics,
        result.analyzed,
        result.recommended,
        result.activations,
        result.predicted,
        console=console,
    )
    for picture in pictures:
        tell(f"{picture}", err=err)


def _print(result: "Overview", sorted_by: str | None) -> None:
    from calibzarr.advice import sensitivities
    from calibzarr.advice.summary import sentences

    console = table_console()
    table, left_out = _table(result.chosen, sorted_by, console.width)
    print_table(console, table)
    if left_out:
        told = f"no room for {', '.join(left_out)}; a pipe and "
        tell(told, Option("csv", "FILE"), " have all")
    if result.description["by_bits"] is not None:
        print_table(console, _table_by_bits(result.description["by_bits"]))
    shown = result.description["shown"]
    if shown["layers"] < shown["of"]:
        console.print(f"of these {shown['layers']} of {shown['of']} layers:")
    for line in sentences(result.description):
        console.print(line, soft_wrap=True)
    for message in sensitivities.sentences(result.root, result.sensitivity):
        console.print(spelled(message), soft_wrap=True)


# heading, variable, bits, format, and rank: a narrow terminal does without the last
_COLUMNS = (
    ("A4 dB", "activation_output_db", 4, ".1f", 0),
    ("A6", "activation_output_db", 6, ".1f", 8),
    ("A8", "activation_output_db", 8, ".1f", 4),
    ("W4 dB", "weight_output_db", 4, ".1f", 1),
    ("W6", "weight_output_db", 6, ".1f", 9),
    ("W8", "weight_output_db", 8, ".1f", 7),
    ("bits", "activation_bits", None, "d", 2),
    ("weights", "weight_bits", None, "d", 3),
    ("A gain", "activation_bit_gain", None, ".1%", 6),
    ("W gain", "weight_bit_gain", None, ".1%", 5),
    ("range", "value_range", None, ".3g", 11),
    ("p01-p99", "central_range", None, ".3g", 15),
    ("outliers", "outlier_ratio", None, ".2f", 12),
    ("sigma", "sigma_variation", None, ".2f", 13),
    ("asymmetry", "asymmetry", None, "+.2f", 16),
    ("8 bits dB", "sqnr_db", 8, ".1f", 10),
    ("6 bits dB", "sqnr_db", 6, ".1f", 17),
    ("4 bits dB", "sqnr_db", 4, ".1f", 14),
)


def _table(chosen: "xr.Dataset", sorted_by: str | None, width: int) -> "tuple[Table, list[str]]":
    """The table, and what it has no room for."""
    from rich.table import Table

    known = [column for column in _COLUMNS if column[1] in chosen]
    ranked = sorted(known, key=lambda column: (column[1] != sorted_by, column[4]))
    room = width - 2 - max((len(name) for name in chosen.layer.values), default=0)
    cells: dict[tuple[Any, ...], list[str]] = {}
    taken = 0
    for column in ranked:
        heading, variable, bits, text_format, _ = column
        values = chosen[variable] if bits is None else chosen[variable].sel(bits=bits)
        texts = [heading, *(_cell(value, text_format) for value in values.values)]
        if variable == "activation_bits" and "phase_bits" in chosen:
            by_phase = chosen.phase_bits.values.tolist()
            texts = [heading, *("/".join(map(str, numbers)) for numbers in by_phase)]
        widest = 2 + max(map(len, texts))
        if taken + widest > room and len(cells) >= 2:  # so many even where names are cut short
            break
        cells[column] = texts
        taken += widest
    table = Table(box=None)
    table.add_column("layer", no_wrap=True, max_width=max(width - taken - 2, 1))
    shown = [texts for column, texts in ((c, cells[c]) for c in _COLUMNS if c in cells)]
    for heading, *_ in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in zip(chosen.layer.values, *(texts[1:] for texts in shown), strict=True):
        table.add_row(*row)
    left_out = [column[0] for column in known if column not in cells]
    if taken - 2 + max(map(len, chosen.layer.values), default=0) > width:
        left_out.append("the ends of names")
    return table, left_out


def _table_by_bits(by_bits: "dict[str, Any]") -> "Table":
    """What uniform bits and a budget of the same cost do, as the sensitivities predict."""
    from rich.table import Table

    table = Table(box=None, title="predicted of the whole model, dB", title_justify="left")
    for heading in ("quantized", "bits"):
        table.add_column(heading)
    for heading in ("output, uniform", "budget", "pictures, uniform", "budget"):
        table.add_column(heading, justify="right")
    for what, of_bits in by_bits.items():
        for bits, found in of_bits.items():
            figures = (
                found[allocation][name]
                for name in ("output_sqnr_db", "picture_psnr_db")
                for allocation in ("uniform", "budget")
            )
            cells = ("" if figure is None else f"{figure:.1f}" for figure in figures)
            table.add_row(what, bits, *cells)
    return table


def _cell(value: Any, text_format: str) -> str:
    return "" if value != value else format(value, text_format)  # NaN: nothing to say
