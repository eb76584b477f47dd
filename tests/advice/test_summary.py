import csv
import io
import json

import numpy as np
import pytest
import xarray as xr

from calibzarr.advice import analysis, observed, recommendation, summary
from calibzarr.advice.choices import SORTS
from calibzarr.advice.options import Options
from calibzarr.errors import OptionError
from calibzarr.statistics.steps import phases


@pytest.fixture(scope="module")
def real(replayed):
    """What is known of the embedded model: the analysis and the recommendation."""
    statistics = analysis.open_statistics(replayed.path)
    activations = observed.activations(statistics)
    recommended = recommendation.of_statistics(statistics, Options(), activations)
    return analysis.of_statistics(statistics, activations), recommended


@pytest.fixture(scope="module")
def chosen(real):
    analyzed, recommended = real
    return analyzed.assign(recommended[["activation_bits", "weight_bits"]])


PREDICTION = {
    "weight_bits": 4.25,
    "activation_bits": None,
    "weight_bytes": 3 * 2**19,
    "output_sqnr_db": 10.0,
    "gain_db": 2.04,
    "picture_psnr_db": None,
}


def made(**changed):
    """An analysis and a recommendation of five layers, one of them a block, by hand."""
    names = ["a.fc1", "a.fc2", "b.fc1", "b.fc2", "b"]
    by_layer = {
        "activation_bits": [8, 4, 2, 6, 8],
        "weight_bits": [4, 4, 8, 2, 8],
        "feature_spread": [9.0, 1.5, np.nan, 4.0, 50.0],
        "widest_feature": [3, 0, 0, 7, 1],
        "range_growth": [0.01, 0.2, 0.0, 0.04, 0.3],
        **changed.pop("by_layer", {}),
    }
    manifest = {
        "num_steps": 3,
        "num_images": 20,
        "activations": {"num_images": 20, "steps": [0, 1, 2, 3]},
        **changed.pop("manifest", {}),
    }
    assert not changed
    roles = ["input"] * 4 + ["output"]
    dataset = xr.Dataset(
        {name: ("layer", values) for name, values in by_layer.items()},
        {
            "layer": names,
            "role": ("layer", roles),
            "kind": ("layer", ["fc1", "fc2", "fc1", "fc2", "block"]),
            "stream": ("layer", ["image"] * 5),
            "block": ("layer", ["a", "a", "b", "b", "b"]),
        },
        manifest,
    )
    thirds = phases(manifest["num_steps"])
    of_phases = {
        "first_step": ("phase", [steps.start for steps in thirds.values()]),
        "end_step": ("phase", [steps.stop for steps in thirds.values()]),
    }
    recommended = dataset.assign(of_phases).assign_coords(phase=list(thirds))
    return dataset, recommended.assign_attrs(prediction=PREDICTION)


@pytest.mark.parametrize("sort", SORTS)
def test_orders_are_those_of_numpy_and_the_worst_come_first(chosen, sort):
    ordered = summary.select(chosen, sort=sort)
    assert set(ordered.layer.values) == set(chosen.layer.values)
    if sort == "model":
        assert ordered.layer.values.tolist() == chosen.layer.values.tolist()
        return
    values = {
        "range": chosen.value_range,
        "central-range": chosen.central_range,
        "outliers": chosen.outlier_ratio,
        "sigma": chosen.sigma_variation,
        "asymmetry": abs(chosen.asymmetry),
        "sqnr": -chosen.sqnr_db.sel(bits=8),
    }[sort].values
    known = np.sort(values[~np.isnan(values)])[::-1]
    actual = values[[chosen.layer.values.tolist().index(name) for name in ordered.layer.values]]
    np.testing.assert_array_equal(actual[: len(known)], known)
    assert np.isnan(actual[len(known) :]).all()


def test_layers_of_unknown_figures_come_last_in_the_order_of_the_model(chosen):
    values = np.full(chosen.sizes["layer"], np.nan)
    values[[10, 20, 30]] = 2, 5, 2
    ordered = summary.select(chosen.assign(outlier_ratio=("layer", values)), sort="outliers")
    names = chosen.layer.values.tolist()
    rest = [name for place, name in enumerate(names) if place not in (10, 20, 30)]
    assert ordered.layer.values.tolist() == [names[20], names[10], names[30], *rest]


def test_filters_leave_what_they_name(chosen):
    text = summary.select(chosen, stream="text")
    assert set(text.stream.values) == {"text"}
    assert text.sizes["layer"] == (chosen.stream.values == "text").sum()
    both = summary.select(chosen, stream="image", kind="mlp.fc2", sort="range", top=2)
    assert set(both.kind.values) == {"mlp.fc2"}
    of_both = chosen.isel(
        layer=(chosen.stream.values == "image") & (chosen.kind.values == "mlp.fc2")
    )
    greatest = of_both.layer.values[np.argsort(-of_both.value_range.values)[:2]]
    assert both.layer.values.tolist() == greatest.tolist()
    assert summary.select(chosen, top=1000).sizes["layer"] == chosen.sizes["layer"]
    np.testing.assert_array_equal(both.activation_bits, chosen.activation_bits.sel(layer=greatest))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "imgae"}, "no stream 'imgae'; did you mean image? There are: unified, text,"),
        ({"kind": "fc2"}, "no kind 'fc2'; did you mean mlp.fc2"),
        ({"kind": "zzz"}, "no kind 'zzz'; There are: "),
        ({"stream": "text", "kind": "linear"}, "no kind 'linear'; There are: "),
        ({"sort": "sigmas"}, "no sort 'sigmas'; did you mean sigma? There are: model, range"),
        ({"stream": ""}, "no stream ''; There are: "),
    ],
)
def test_unknown_names_list_near_ones(chosen, options, message):
    with pytest.raises(OptionError) as caught:
        summary.select(chosen, **options)
    assert message in str(caught.value)
    known = {"stream": chosen.stream, "kind": chosen.kind}
    if (name := next(iter(options))) in known and len(options) == 1:
        assert all(value in str(caught.value) for value in np.unique(known[name]))


def test_rows_hold_every_layer_in_json_types(chosen):
    rows = summary.rows(chosen)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["layer"] for row in rows] == chosen.layer.values.tolist()
    for row in rows:
        own = chosen.sel(layer=row["layer"])
        assert row["activation_bits"] == int(own.activation_bits)
        for name in ("value_range", "outlier_ratio", "feature_spread", "range_growth"):
            value = float(own[name])
            assert row[name] == (value if np.isfinite(value) else None)
        for bits in range(2, 9):
            assert row[f"sqnr_db_{bits}"] == float(own.sqnr_db.sel(bits=bits))
        if row["role"] == "output":
            assert row["weight_sqnr_db_4"] is None
    assert all(isinstance(row["post_gelu"], bool) for row in rows)


def test_infinite_figures_are_told_as_none(chosen):
    infinite = chosen.isel(layer=slice(0, 1)).copy(deep=True)
    infinite.sqnr_db[:] = np.inf
    infinite.value_range[:] = -np.inf
    (row,) = summary.rows(infinite)
    assert row["sqnr_db_8"] is row["value_range"] is None
    json.dumps(row, allow_nan=False)


def test_a_description_by_hand():
    description = summary.describe(*made())
    assert description["bits"] == {  # of linear layers; blocks are no tensors to quantize
        "activations": {"2": 1, "4": 1, "6": 1, "8": 1},
        "weights": {"2": 1, "4": 2, "8": 1},
    }
    assert description["recommended"] == PREDICTION
    assert description["features"] == {
        "a.fc1": {"feature": 3, "spread": 9.0},
        "b.fc2": {"feature": 7, "spread": 4.0},
    }
    assert description["images"] == {
        "number": 20,
        "enough": False,
        "median_growth": 0.04,
        "worst": {"b": 0.3, "a.fc2": 0.2},
    }
    assert description["not_covered"] == []
    json.dumps(description, allow_nan=False)


def test_what_was_not_collected_is_told():
    description = summary.describe(
        *made(
            manifest={
                "num_steps": 9,
                "num_images": 100,
                "activations": {"num_images": 20, "steps": [4, 5]},
            },
        )
    )
    steps, absent, images = description["not_covered"]
    assert "8 of 10 steps were not collected" in steps
    assert absent == "nothing was collected in early, late"
    assert images == "80 images of the store were not collected"
    text = summary.sentences(description)
    assert text[-3:] == [f"not known: {sentence}" for sentence in description["not_covered"]]


def test_one_image_is_too_few_to_tell():
    nothing = {"range_growth": [np.nan] * 5}
    manifest = {"num_images": 1, "activations": {"num_images": 1, "steps": [0, 1, 2, 3]}}
    description = summary.describe(*made(by_layer=nothing, manifest=manifest))
    assert description["images"] == {
        "number": 1,
        "enough": None,
        "median_growth": None,
        "worst": {},
    }
    assert "1 images: too few to tell whether they were enough" in summary.sentences(description)


def test_enough_images_are_told_so():
    settled = {"range_growth": [0.01, 0.02, np.nan, 0.03, 0.0]}
    description = summary.describe(*made(by_layer=settled))
    assert description["images"]["enough"] is True
    (line,) = [line for line in summary.sentences(description) if "images" in line]
    assert line.startswith("20 images: enough; their ranges are 1.5% wider")


def test_sentences_say_what_bits_cost_and_gain_and_drop_nothing():
    text = summary.sentences(summary.describe(*made()))
    assert text[0] == "bits of activations: 1 with 2, 1 with 4, 1 with 6, 1 with 8"
    assert text[1] == "bits of weights: 1 with 2, 2 with 4, 1 with 8"
    assert text[2] == (
        "recommended for the whole model: 4.250 bits per weight; 1.50 MiB of weights; "
        "output SQNR 10.0 dB, +2.0 dB against uniform bits"
    )
    assert text[3] == "features stand out: a.fc1; b.fc2"
    assert text[4] == "  most: feature 3 of a.fc1, 9 times the median range"
    assert "20 images: not enough for all layers; their ranges are 4.0% wider" in text[5]
    assert "still growing most: b, by 30.0%" in text[6]


def test_a_table_for_other_programs_has_every_column_with_its_unit(chosen):
    text = summary.csv_text(chosen)
    read = list(csv.DictReader(io.StringIO(text)))
    rows = summary.rows(chosen)
    assert text.startswith("layer,")
    for line, row in zip(read, rows, strict=True):
        assert line == {name: "" if value is None else str(value) for name, value in row.items()}
    units = summary.units(chosen)
    assert set(units) <= set(rows[0])
    assert (units["sqnr_db_4"], units["value_range"]) == ("dB", "activation units")
    assert (units["activation_bits"], units["outlier_ratio"]) == ("bit", "1")


def test_the_embedded_model_is_described_by_its_own_figures(real):
    analyzed, recommended = real
    description = summary.describe(analyzed, recommended)
    linear = recommended.isel(layer=recommended.role.values == "input")
    for what, kind in (("activations", "activation"), ("weights", "weight")):
        bits, numbers = np.unique(linear[f"{kind}_bits"].values, return_counts=True)
        counted = {str(b): int(n) for b, n in zip(bits, numbers, strict=True)}
        assert description["bits"][what] == counted
    assert description["images"]["number"] == 5
    assert description["not_covered"] == ["2 images of the store were not collected"]
    assert len(summary.sentences(description)) >= 5
