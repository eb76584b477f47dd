"""Print what xarray sees in a store, and draw its pictures, and one image's way, beside it."""

from pathlib import Path

import click
import numpy as np
import xarray as xr

from calibzarr.models import registry
from calibzarr.plots.images import contact_sheet, film_strip


@click.command()
@click.argument("store", type=click.Path(exists=True, path_type=Path))
def main(store: Path) -> None:
    """Print STORE as xarray sees it and write two PNGs next to it."""
    dataset = xr.open_zarr(store, chunks=None)
    click.echo(dataset)
    sheet = store.with_suffix(".png")
    contact_sheet(dataset).save(sheet)
    click.echo(f"\ncontact sheet: {sheet.resolve()}")
    complete = np.flatnonzero(dataset.complete.values)
    if len(complete) and dataset.attrs["model"]:
        model = registry.load(dataset.attrs["model"])
        film = store.with_name(f"{store.stem}-film.png")
        film_strip(dataset, int(complete[0]), model.decode).save(film)
        click.echo(f"film strip:    {film.resolve()}")


if __name__ == "__main__":
    main()
