"""Results and stores are what other programs of xarray's world expect."""

import json

import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.datasets import for_users
from tests.support.files import EXAMPLE


def results():
    yield calibzarr.analyze(EXAMPLE)
    yield calibzarr.recommend(EXAMPLE)
    yield calibzarr.compare(EXAMPLE, EXAMPLE).to_dataset()


@pytest.mark.slow
def test_results_are_labelled_and_go_through_zarr_and_netcdf(tmp_path):
    for number, result in enumerate(results()):
        for name, variable in result.variables.items():
            assert variable.attrs["long_name"], name
            assert variable.attrs["units"], name
        result.to_zarr(tmp_path / f"{number}.zarr", consolidated=False)
        result.to_netcdf(tmp_path / f"{number}.nc")
        with (
            xr.open_zarr(tmp_path / f"{number}.zarr", chunks=None, consolidated=False) as in_zarr,
            xr.open_dataset(tmp_path / f"{number}.nc") as in_netcdf,
        ):
            xr.testing.assert_equal(in_zarr, result)
            xr.testing.assert_equal(in_netcdf, result)
            assert in_zarr.attrs == result.attrs


def test_attributes_are_of_plain_types():
    nested = {"bins": [1, 2], "worst": float("inf")}
    dataset = xr.Dataset(
        {"name": ("layer", np.array(["a", "bc"]))},
        attrs={"nested": nested, "by_phase": True, "unknown": None, "count": 3, "model": "tiny"},
    )
    plain = for_users(dataset, {"name": ("what it is called", "1")})
    assert plain.name.dtype == object
    assert plain.name.attrs == {"long_name": "what it is called", "units": "1"}
    assert json.loads(plain.attrs.pop("nested")) == {"bins": [1, 2], "worst": None}
    assert plain.attrs == {"by_phase": 1, "count": 3, "model": "tiny"}
    assert dataset.name.attrs == {}


def test_the_noise_free_estimate_is_that_of_the_formula():
    """As stores/README.md writes it, beside the formula on plain arrays."""
    dataset = calibzarr.open_store(EXAMPLE)
    x, sigma = dataset.latents, dataset.sigma
    denoised = x - sigma * (x.shift(step=-1) - x) / (sigma.shift(step=-1) - sigma)
    states, levels = x.values, sigma.values[:, None, None, None]
    expected = states[:, :-1] - levels[:-1] * np.diff(states, axis=1) / np.diff(levels, axis=0)
    np.testing.assert_allclose(denoised.values[:, :-1], expected, atol=1e-6)
    assert np.isnan(denoised.values[:, -1]).all()
    assert dataset.isel(step=[3, 1], image=[2]).step.values.tolist() == [3, 1]
