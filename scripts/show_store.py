"""Print what xarray sees in a store, and draw a contact sheet of its pictures beside it."""

from pathlib import Path

import click
import xarray as xr

from calibzarr.report import contact_sheet


@click.command()
@click.argument("store", type=click.Path(exists=True, path_type=Path))
def main(store: Path) -> None:
    """Print STORE as xarray sees it and write a PNG next to it."""
    dataset = xr.open_zarr(store, chunks=None)
    click.echo(dataset)
    picture = store.with_suffix(".png")
    contact_sheet(dataset).save(picture)
    click.echo(f"\ncontact sheet: {picture.resolve()}")


if __name__ == "__main__":
    main()
