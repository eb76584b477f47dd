import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg

from calibzarr.advice import by_bits
from calibzarr.plots.bits import bits_by_phase, predicted_by_bits
from calibzarr.quantization.levels import BITS

PHASES = ("early", "mid", "late")


@pytest.fixture
def predicted():
    generator = np.random.default_rng(0)
    dims = ("quantized", "bits", "allocation")
    shape = (len(by_bits.QUANTIZED), len(BITS), len(by_bits.ALLOCATIONS))
    output, picture = generator.uniform(0, 40, (2, *shape))
    picture[0] = np.inf
    layers = generator.choice([*BITS, 16], (len(BITS), 5, len(PHASES)))
    return xr.Dataset(
        {
            "output_sqnr_db": (dims, output),
            "picture_psnr_db": (dims, picture),
            "weight_bits": ("bits", np.array(BITS) + 0.1),
            "activation_bits": ("bits", np.array(BITS, float)),
            "phase_bits": (("bits", "layer", "phase"), layers),
        },
        {
            "quantized": list(by_bits.QUANTIZED),
            "bits": list(BITS),
            "allocation": list(by_bits.ALLOCATIONS),
        },
    )


@pytest.fixture
def recommended():
    coordinates = {
        "layer": [f"block.{number}" for number in range(5)],
        "role": ("layer", ["input"] * 4 + ["output"]),
        "kind": ("layer", ["linear"] * 4 + ["block"]),
        "input_group": ("layer", [f"block.{number}" for number in range(5)]),
        "phase": list(PHASES),
    }
    return xr.Dataset({}, coordinates, {"model": "synthetic"})


def test_curves_are_what_is_predicted(recommended, predicted):
    figure = predicted_by_bits(recommended, predicted)
    FigureCanvasAgg(figure).draw()
    for column, what in enumerate(by_bits.QUANTIZED):
        axes = figure.axes[column]
        assert axes.get_title(loc="left") == what
        for line, allocation in zip(axes.lines, by_bits.ALLOCATIONS, strict=True):
            expected = predicted.output_sqnr_db.sel(quantized=what, allocation=allocation)
            np.testing.assert_array_equal(line.get_ydata(), expected)
            mean = predicted["activation_bits" if what == "activations" else "weight_bits"]
            np.testing.assert_array_equal(line.get_xdata(), mean)
    assert np.isnan(figure.axes[3].lines[0].get_ydata()).all()  # no error cannot be drawn


def test_cells_are_the_bits_of_linear_layers(recommended, predicted):
    figure = bits_by_phase(recommended, predicted)
    FigureCanvasAgg(figure).draw()
    for axes, mean in zip(figure.axes, (4, 5, 6), strict=True):
        shown = np.ma.filled(axes.images[0].get_array(), 16)
        np.testing.assert_array_equal(shown, predicted.phase_bits.sel(bits=mean)[:4])
        assert [text.get_text() for text in axes.get_xticklabels()] == list(PHASES)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == recommended.layer.values[:4].tolist()
