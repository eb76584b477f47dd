import pytest
import xarray as xr

from calibzarr.advice import analysis, overview, recommendation, summary
from calibzarr.advice.options import Options
from calibzarr.errors import OptionError
from calibzarr.storage.manifest import read_root
from calibzarr.storage.reading import open_statistics


@pytest.mark.slow
def test_an_overview_is_what_its_parts_are(replayed):
    result = overview.overview(replayed.path, stream="image", sort="outliers", top=3)
    root = read_root(replayed.path)
    analyzed = analysis.of_statistics(open_statistics(root))
    recommended = recommendation.of_store(root, Options())
    xr.testing.assert_identical(result.analyzed, analyzed)
    del recommended.attrs["warnings"]
    xr.testing.assert_identical(result.recommended, recommended)
    chosen = summary.select(analyzed, stream="image", sort="outliers", top=3)
    assert result.chosen.layer.values.tolist() == chosen.layer.values.tolist()
    expected = recommended.sel(layer=chosen.layer)
    assert (result.chosen.activation_bits.values == expected.activation_bits.values).all()
    narrowed = (dataset.sel(layer=chosen.layer.values) for dataset in (analyzed, recommended))
    shown = {"layers": 3, "of": analyzed.sizes["layer"]}
    expected = {"shown": shown, **summary.describe(*narrowed), "by_bits": None}
    assert result.description == expected


def test_what_cannot_be_chosen_is_refused_before_the_work(replayed, monkeypatch):
    monkeypatch.setattr(analysis, "of_statistics", lambda *_: pytest.fail("analyzed"))
    with pytest.raises(OptionError, match=r"no stream 'imag'; did you mean image\?"):
        overview.overview(replayed.path, stream="imag")
