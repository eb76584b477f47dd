import sys
from dataclasses import asdict
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from calibzarr import plots
from calibzarr.advice import analysis, observed, recommendation
from calibzarr.advice.options import Options
from calibzarr.errors import OptionError
from calibzarr.plots import distributions, drawing
from calibzarr.plots import layers as model_layers
from calibzarr.statistics.histogram import LogBins

BINS = LogBins(-16, 10)
PICTURES = (
    "convergence",
    "extremes_by_prompt",
    "feature_ranges",
    "histograms",
    "range_by_kind",
    "range_by_sigma",
    "recommended_bits",
    "sqnr_by_bits",
    "sqnr_by_step",
)
KINDS = ("adaLN_modulation", *(f"attn.{part}_proj" for part in "koqv"), "mlp.fc1", "mlp.fc2")
NAMES = ("layer", "block", "stream", "kind", "role")
WIDTH, TOKENS = 20, 6


def rows_of(num_blocks, streams=("image", "text"), kinds=KINDS):
    """Layers as a model's: name, block, stream, kind and role of each."""
    rows = []
    for block in ("t_embedder", "y_embedder"):
        rows += [(f"{block}.{kind}", block, "unified", kind, "input") for kind in KINDS[-2:]]
    if "text" in streams:
        rows.append(("context_embedder", "context_embedder", "text", "context_embedder", "input"))
    for number in range(num_blocks):
        block = f"mm_block_{number}"
        for stream in streams:
            names = [f"{block}.{stream}.{kind}" for kind in kinds]
            rows += [(n, block, stream, k, "input") for n, k in zip(names, kinds, strict=True)]
        for stream in streams:
            name = block if stream == "image" else f"{block}.{stream}"
            rows.append((name, block, stream, "block", "output"))
    final = ("adaLN_modulation", "linear")
    return rows + [(f"final_layer.{k}", "final_layer", "image", k, "input") for k in final]


def relations_of(rows):
    """What the layers of :func:`rows_of` share, follow and depend on, as a model would say it."""
    names = [row[0] for row in rows]
    projections = ("attn.q_proj", "attn.k_proj", "attn.v_proj")
    return {
        "input_group": names,
        "tied_group": [
            f"{block}.{stream}.attn.k_proj" if kind in projections else name
            for name, block, stream, kind, _ in rows
        ],
        "follows": [
            "gelu" if kind == "mlp.fc2" and "_block_" in block else ""
            for _, block, _, kind, _ in rows
        ],
        "text_only": [block in ("y_embedder", "context_embedder") for _, block, *_ in rows],
    }


def raw_activations(rows, num_steps, num_images, seed=0):
    """Shape (layer, step, image, token, feature), of scales that span decades; with outliers."""
    random = np.random.default_rng(seed)
    shape = (len(rows), num_steps, num_images, TOKENS, WIDTH)
    scale = 10 ** random.uniform(-1.5, 1.5, (len(rows), 1, 1, 1, 1))
    over_steps = 1 + random.uniform(0, 2, (len(rows), 1)) * np.linspace(1, 0, num_steps)
    by_image = random.lognormal(0, 0.2, (len(rows), 1, num_images, 1, 1))
    by_feature = np.where(random.random((len(rows), 1, 1, 1, WIDTH)) < 0.05, 12.0, 1.0)
    values = random.standard_normal(shape) * scale * by_image * by_feature
    values *= over_steps[:, :, None, None, None]
    values[[row[3] == "mlp.fc2" for row in rows]] *= 0.2 + 0.8 * (
        values[[row[3] == "mlp.fc2" for row in rows]] > 0
    )
    return values.astype(np.float32)


def statistics_of(rows, raw, model="synthetic"):
    """What a collection gives for raw activations."""
    layers, steps, images = raw.shape[:3]
    flat = raw.reshape(layers, steps, -1)
    by_image = raw.reshape(layers, steps, images, -1)
    by_feature = raw.reshape(layers, steps, -1, WIDTH)
    weights = np.random.default_rng(1).normal(0, 0.1, (layers, 40, WIDTH)).astype(np.float32)
    counts = np.stack([[BINS.counts(np.ascontiguousarray(step)) for step in own] for own in flat])
    variables = {
        "histogram": ("step bin", counts),
        "value_count": ("step", counts.sum(axis=-1)),
        "value_min": ("step", flat.min(axis=-1)),
        "value_max": ("step", flat.max(axis=-1)),
        "value_mean": ("step", flat.mean(axis=-1, dtype=float)),
        "value_std": ("step", flat.std(axis=-1, dtype=float)),
        "image_min": ("step image", by_image.min(axis=-1)),
        "image_max": ("step image", by_image.max(axis=-1)),
        "image_mean": ("step image", by_image.mean(axis=-1)),
        "feature_min": ("step feature", by_feature.min(axis=2)),
        "feature_max": ("step feature", by_feature.max(axis=2)),
        "feature_mean_min": ("step feature", raw.min(axis=3).mean(axis=2)),
        "feature_mean_max": ("step feature", raw.max(axis=3).mean(axis=2)),
        "weight_histogram": ("bin", np.stack([BINS.counts(own) for own in weights])),
        "weight_feature_max": ("feature", np.abs(weights).max(axis=1)),
    }
    text = dict(zip(NAMES, zip(*rows, strict=True), strict=True)) | relations_of(rows)
    sigma = np.linspace(1, 0, steps) ** 0.7 if steps > 1 else np.ones(1)
    return xr.Dataset(
        {name: (("layer", *dims.split()), values) for name, (dims, values) in variables.items()},
        {
            **{name: ("layer", np.array(values)) for name, values in text.items()},
            "module": ("layer", np.array(text["layer"])),
            "features": ("layer", np.full(layers, WIDTH)),
            "step": np.arange(steps),
            "sigma": ("step", sigma.astype(np.float32)),
            "prompt": ("image", [f"a picture of the number {i}" for i in range(images)]),
            "collected_image": ("image", np.ones(images, dtype=bool)),
            "state_sigma": ("state", np.linspace(1, 0, max(steps - 1, 3) + 1)),
        },
        {
            "num_steps": max(steps - 1, 3),
            "model": model,
            "activations": {"bins": asdict(BINS), "num_images": images},
        },
    )


class Sample:
    """Statistics, what follows from them, and the values that they are of."""

    def __init__(self, num_blocks, num_steps, num_images, change=None, **options):
        rows = rows_of(num_blocks, **options)
        self.raw = raw_activations(rows, num_steps, num_images)
        if change:
            change(self.raw)
        self.statistics = statistics_of(rows, self.raw)
        self.analyzed = analysis.of_statistics(self.statistics)
        self.recommended = recommendation.of_statistics(self.statistics, Options())

    @property
    def names(self):
        return self.statistics.layer.values.tolist()

    def draw(self, name):
        arguments = {
            "convergence": (self.statistics,),
            "extremes_by_prompt": (self.statistics,),
            "feature_ranges": (self.statistics, self.analyzed),
            "histograms": (self.statistics, self.analyzed, None, None, self.recommended),
            "recommended_bits": (self.recommended,),
            "sqnr_by_bits": (self.analyzed, self.recommended),
        }
        return getattr(plots, name)(*arguments.get(name, (self.analyzed,)))


@pytest.fixture(scope="module")
def small():
    return Sample(num_blocks=4, num_steps=6, num_images=4)


@pytest.fixture(scope="module")
def large():
    """As many layers and steps as a real model's; the steps repeat themselves."""
    sample = Sample(num_blocks=19, num_steps=2, num_images=4)
    repeated = np.arange(51) // 26
    coordinates = {
        "step": np.arange(51),
        "sigma": ("step", np.linspace(1, 0, 51, dtype=np.float32) ** 0.6),
    }
    for name in ("statistics", "analyzed"):
        dataset = getattr(sample, name).isel(step=repeated).assign_coords(coordinates)
        setattr(sample, name, dataset.assign_attrs(num_steps=50))
    assert len(sample.names) >= 300
    return sample


@pytest.mark.slow
def test_every_picture_is_written_as_png_and_svg(small, tmp_path):
    directory = tmp_path / "not" / "there"
    paths = plots.write(directory, small.statistics, small.analyzed, small.recommended)
    expected = {f"{name}.{suffix}" for name in PICTURES for suffix in ("png", "svg")}
    assert {path.name for path in paths} == expected
    assert {path.name for path in directory.iterdir()} == expected  # nothing partial is left
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert image.format == "PNG"
                assert min(image.size) > 400
                assert np.asarray(image.convert("L")).std() > 5  # not blank
        else:
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
            assert path.stat().st_size < 2 << 20


def test_the_same_data_give_the_same_bytes(small, tmp_path):
    first, second = (
        drawing.save(small.draw("convergence"), tmp_path / name, "convergence") for name in "ab"
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_settings_of_the_user_stay_and_change_nothing(small, tmp_path):
    import matplotlib

    expected = [path.read_bytes() for path in save(small, tmp_path / "a")]
    with matplotlib.rc_context({"font.size": 30, "axes.titlelocation": "right"}):
        before = dict(matplotlib.rcParams)
        actual = [path.read_bytes() for path in save(small, tmp_path / "b")]
        assert dict(matplotlib.rcParams) == before
    assert actual == expected


def save(sample, directory):
    return drawing.save(sample.draw("convergence"), directory, "convergence")


def test_pyplot_is_not_needed(small, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert all(path.stat().st_size for path in save(small, tmp_path))


def test_what_was_observed_may_be_given(small, tmp_path):
    activations = observed.activations(small.statistics)
    names = small.names[7:9]
    own = plots.histograms(small.statistics, small.analyzed, names, activations)
    other = plots.histograms(small.statistics, small.analyzed, names)
    for one, two in zip(own.axes, other.axes, strict=True):
        for line, same in zip(one.lines, two.lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())


def test_without_matplotlib_the_message_says_what_to_install(small, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        lambda: small.draw("range_by_sigma"),
        lambda: plots.write(tmp_path / "new", small.statistics, small.analyzed, small.recommended),
    ):
        with pytest.raises(ModuleNotFoundError) as error:
            call()
        assert str(error.value).endswith("pip install matplotlib")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def drawn_texts(figure, monkeypatch):
    """What is written when a figure is drawn, and where, in pixels."""
    texts, original = {}, Text.draw

    def draw(text, renderer, *args, **options):
        if text.get_visible() and text.get_text().strip():
            texts[id(text)] = (text.get_text(), Text.get_window_extent(text, renderer))
        return original(text, renderer, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        FigureCanvasAgg(figure).draw()
    names, boxes = zip(*texts.values(), strict=True)
    return names, np.array([[box.x0, box.y0, box.x1, box.y1] for box in boxes])


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("size", ["small", "large"])
def test_labels_neither_overlap_nor_leave_the_picture(name, size, request, monkeypatch):
    figure = request.getfixturevalue(size).draw(name)
    names, boxes = drawn_texts(figure, monkeypatch)
    assert len(names) > 5
    low, high = boxes[:, :2] + 0.5, boxes[:, 2:] - 0.5  # pixels
    meet = (low[:, None] < high) & (low < high[:, None])
    pairs = np.argwhere(np.triu(meet.all(axis=-1), k=1))
    assert not [(names[i], names[j]) for i, j in pairs]
    assert (boxes[:, :2] > -1).all()
    assert (boxes[:, 2:] < np.array(figure.bbox.size) + 1).all()


def ranges_of(raw):
    flat = raw.reshape(*raw.shape[:2], -1)
    return flat.max(axis=-1) - flat.min(axis=-1)


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_heatmap_shows_the_range_of_every_layer_and_step(size, request):
    sample = request.getfixturevalue(size)
    strip, axes = sample.draw("range_by_sigma").axes[:2]
    (image,) = axes.images
    expected = ranges_of(sample.raw)
    if size == "large":
        expected = expected[:, np.arange(51) // 26]
    np.testing.assert_array_equal(image.get_array(), expected)
    assert image.get_extent()[2] > image.get_extent()[3]  # the first layer is at the top
    assert type(image.norm).__name__ == "LogNorm"  # ranges span decades
    np.testing.assert_allclose([image.norm.vmin, image.norm.vmax], [expected.min(), expected.max()])
    sigma = sample.analyzed.sigma.values
    assert [text.get_text() for text in axes.get_xticklabels()] == [f"{own:.3g}" for own in sigma]
    if size == "small":
        assert [text.get_text() for text in strip.get_yticklabels()] == sample.names
    else:
        blocks = [text.get_text() for text in strip.texts]
        assert blocks == list(dict.fromkeys(sample.statistics.block.values.tolist()))


def test_the_second_heatmap_is_relative_to_each_layers_greatest_range(small):
    expected = ranges_of(small.raw)
    (image,) = small.draw("range_by_sigma").axes[2].images
    np.testing.assert_allclose(
        image.get_array(), expected / expected.max(axis=1, keepdims=True), rtol=1e-6
    )


def test_heatmaps_of_sqnr_show_8_and_4_bits(small):
    for axes, bits in zip(small.draw("sqnr_by_step").axes[1:3], (8, 4), strict=True):
        shown = axes.images[0].get_array()
        np.testing.assert_array_equal(shown, small.analyzed.step_sqnr_db.sel(bits=bits))


def test_layers_that_read_one_array_are_drawn_once(small):
    group = [name.replace("q_proj", "k_proj").replace("v_proj", "k_proj") for name in small.names]
    analyzed = small.analyzed.assign_coords(input_group=("layer", group))
    strip, axes = plots.range_by_sigma(analyzed).axes[:2]
    names = [text.get_text() for text in strip.get_yticklabels()]
    assert len(names) == axes.images[0].get_array().shape[0] == len(small.names) - 2 * 8
    assert "mm_block_2.text.attn.k,o,q,v_proj" not in names
    assert "mm_block_2.text.attn.k,q,v_proj" in names
    titles = [each.get_title(loc="left") for each in plots.range_by_kind(analyzed).axes]
    assert titles[:2] == ["attn.k,q,v_proj", "attn.o_proj"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.q_proj"], "a.q_proj"),
        (["a.q_proj", "a.k_proj"], "a.q,k_proj"),
        (["b.image.adaLN", "b.text.adaLN"], "b.image,text.adaLN"),
        (["x", "y", "z"], "x,y,z"),
        (["aa", "aaa"], "aa,aaa"),
        ([f"block_{i}" for i in range(9)], "block_0 and 8 more"),
    ],
)
def test_names_in_one(names, expected):
    assert model_layers.joined(names) == expected


def test_the_images_of_extremes_are_those_of_the_raw_values(small):
    axes = small.draw("extremes_by_prompt").axes[0]
    by_image = small.raw.reshape(*small.raw.shape[:3], -1)
    low = by_image.min(axis=(1, 3)).argmin(axis=1)
    high = by_image.max(axis=(1, 3)).argmax(axis=1)
    least, greatest = (
        {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in bars}
        for bars in axes.containers
    )
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert len(labels) == 4
    for place, label in enumerate(labels):
        image = int(label.partition(":")[0])
        assert label == f"{image}: a picture of the number {image}"
        assert (least[place], greatest[place]) == ((low == image).sum(), (high == image).sum())
    assert axes.lines[0].get_xdata()[0] == 2 * len(small.names) / 4


@pytest.mark.parametrize("by_phase", [False, True])
def test_clipping_ranges_are_drawn_at_the_ridges(small, by_phase):
    name = "mm_block_1.image.mlp.fc1"
    recommended = small.recommended.copy(deep=True)
    ends = [(-0.3, 0.2), (-0.2, 0.1), (-0.1, 0.3)] if by_phase else [(-0.25, 0.15)] * 3
    if by_phase:
        recommended.attrs["by_phase"] = True
        recommended.phase_bits[:] = 8
        for number, phase in enumerate(("phase_clip_min", "phase_clip_max")):
            recommended[phase].loc[{"layer": name}] = [pair[number] for pair in ends]
    else:
        recommended.clip_min.loc[name], recommended.clip_max.loc[name] = ends[0]
    figure = plots.histograms(small.statistics, small.analyzed, [name], recommended=recommended)
    found = {}
    for lines in figure.axes[0].collections:
        for segment in getattr(lines, "get_segments", list)():
            found.setdefault(round(segment[0, 1]), []).append(segment[0, 0])
    first = recommended.first_step.values
    for step in range(6):
        phase = max(number for number in range(3) if step >= first[number])
        assert sorted(found[5 - step]) == pytest.approx(ends[phase])


def test_ranges_within_a_decade_are_on_a_linear_scale(small):
    analyzed = small.analyzed.assign(step_range=small.analyzed.step_range * 0 + [1, 2, 3, 4, 5, 6])
    (image,) = plots.range_by_sigma(analyzed).axes[1].images
    assert type(image.norm).__name__ == "Normalize"
    assert plots.range_by_kind(analyzed).axes[0].get_yscale() == "linear"
    spread = analyzed.assign(step_range=analyzed.step_range * [1, 1, 1, 1, 1, 3])
    assert plots.range_by_kind(spread).axes[0].get_yscale() == "log"


def test_every_layer_has_a_line_in_the_panel_of_its_kind(small):
    figure = small.draw("range_by_kind")
    expected = ranges_of(small.raw)
    found = {}
    for axes in figure.axes:
        for line in axes.lines:
            name = line.get_label().removeprefix("_")
            if name in small.names:
                row = small.names.index(name)
                assert axes.get_title(loc="left") == small.statistics.kind.values[row]
                stream = small.statistics.stream.values[row]
                assert line.get_linestyle() == {"image": "-", "text": "--", "unified": ":"}[stream]
                np.testing.assert_array_equal(line.get_xdata(), small.statistics.sigma)
                found[row] = line.get_ydata()
    np.testing.assert_array_equal([found[row] for row in range(len(expected))], expected)
    (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left") == "attn.q_proj")
    medians = [line.get_ydata() for line in axes.lines if line.get_label() == "_median"]
    kind, stream = small.statistics.kind.values, small.statistics.stream.values
    for median, own in zip(medians, ("image", "text"), strict=True):
        rows = (kind == "attn.q_proj") & (stream == own)
        np.testing.assert_allclose(median, np.median(expected[rows], axis=0), rtol=1e-6)


def test_ridges_are_the_distribution_of_the_raw_values(small):
    layer = small.names.index("mm_block_1.image.mlp.fc1")
    figure = plots.histograms(small.statistics, small.analyzed, [small.names[layer]])
    axes = figure.axes[0]
    ridges = [line for line in axes.lines if len(line.get_xdata()) > 2]
    spans = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert len(ridges) == len(spans) == 6
    width = axes.xaxis.get_transform().linear_width
    for step, (ridge, span) in enumerate(zip(ridges, spans, strict=True)):
        own = small.raw[layer, step].ravel()
        np.testing.assert_array_equal(span.get_xdata(), [own.min(), own.max()])
        middles = np.arcsinh(ridge.get_xdata() / width)
        heights = ridge.get_ydata() - (5 - step)
        assert heights.min() == 0
        # Cells are even on the drawn axis, so heights are as numbers of values.
        below = np.append(0, heights.cumsum() / heights.sum())
        cell = np.diff(middles).mean()
        edges = width * np.sinh(np.append(middles - cell / 2, middles[-1] + cell / 2))
        expected = (own[:, None] < edges).mean(axis=0)
        np.testing.assert_allclose(below, expected, atol=0.03)


@given(st.integers(0, 2**32 - 1))
def test_densities_agree_with_counting_the_raw_values(seed):
    random = np.random.default_rng(seed)
    values = (random.standard_t(3, (2, 3000)) * 10 ** random.uniform(-2, 2)).astype(np.float32)
    counts = np.stack([BINS.counts(row) for row in values])
    edges = np.sort(random.choice(BINS.high[:-1], 12, replace=False))
    expected = np.stack([np.histogram(row, edges)[0] for row in values]) / 3000
    np.testing.assert_allclose(
        distributions.densities(counts, BINS, edges), expected, atol=2e-3
    )  # a value on an edge belongs to the bin farther from 0
    whole = distributions.densities(counts, BINS, np.array([-1e9, 0, 1e9]))
    np.testing.assert_allclose(whole.sum(axis=1), 1, rtol=1e-12)


def test_nothing_counted_has_no_density():
    nothing = np.zeros((1, BINS.count), dtype=np.int64)
    assert np.isnan(distributions.densities(nothing, BINS, np.array([-1.0, 0, 1]))).all()


def test_telling_layers_have_ridges_of_their_own(small):
    reasons = distributions.ridge_layers(small.statistics, small.analyzed)
    analyzed = small.analyzed
    first = analyzed.layer.values[analyzed.sigma_variation.values.argmax()]
    assert next(iter(reasons)) == first
    assert len(reasons) == 4
    assert "GELU" in list(reasons.values())[-1]
    assert analyzed.post_gelu.sel(layer=list(reasons)[-1])
    titles = [axes.get_title(loc="left") for axes in small.draw("histograms").axes[:4]]
    assert titles == [f"{name}\n{reason}" for name, reason in reasons.items()]


def test_layers_that_read_one_array_are_chosen_once():
    values, alike = np.array([3.0, 5, 5, np.nan, 4, 1]), np.array([0, 1, 1, 2, 3, 0])
    assert model_layers.most(values, alike, 9) == [1, 4, 0]
    assert model_layers.most(values, alike, 2) == [1, 4]
    assert model_layers.most(values, alike, 9, without=[2]) == [4, 0]
    assert model_layers.most(values * np.nan, alike, 9) == []


def test_an_unknown_layer_is_an_error_that_names_near_ones(small, tmp_path):
    with pytest.raises(OptionError, match=r"no layer 'mm_block_1\.image\.q_proj'.*attn\.q_proj"):
        plots.write(
            tmp_path / "new",
            small.statistics,
            small.analyzed,
            small.recommended,
            ridge_layers=["mm_block_1.image.q_proj"],
        )
    assert not (tmp_path / "new").exists()


def test_sqnr_is_drawn_by_its_median_band_and_worst_layer(small):
    figure = small.draw("sqnr_by_bits")
    analyzed = small.analyzed
    rows = np.flatnonzero(analyzed.kind.values == "attn.k_proj")
    (axes,) = (axes for axes in figure.axes if "attn.k_proj" in axes.get_title(loc="left"))
    lines = {line.get_label(): line for line in axes.lines}
    for label, variable in (("activations", "sqnr_db"), ("weights", "weight_sqnr_db")):
        median = np.median(analyzed[variable].values[rows], axis=0)
        line = lines[f"{label}, median layer"]
        np.testing.assert_allclose(line.get_ydata(), median, rtol=1e-12)
        np.testing.assert_array_equal(line.get_xdata(), range(2, 9))
    worst = rows[analyzed.sqnr_db.values[rows, -1].argmin()]
    np.testing.assert_array_equal(
        lines["activations, worst layer"].get_ydata(), analyzed.sqnr_db.values[worst]
    )
    assert small.names[worst] in [text.get_text().split()[-1] for text in axes.texts]


def test_every_cell_has_the_bits_of_its_layer(small):
    recommended = small.recommended
    figure = small.draw("recommended_bits")
    names = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    for axes, variable in zip(figure.axes, ("activation_bits", "weight_bits"), strict=True):
        rows = [text.get_text() for text in axes.get_yticklabels()]
        cells = {
            (rows[round(y)], names[round(x)]): int(text.get_text())
            for text in axes.texts
            for x, y in [text.get_position()]
        }
        expected = {
            (f"{stream} {kind}", block): int(bits)
            for stream, kind, block, bits in zip(
                recommended.stream.values,
                recommended.kind.values,
                recommended.block.values,
                recommended[variable].values,
                strict=True,
            )
        }
        assert cells == expected
        array = axes.images[0].get_array()
        assert array.count() == len(expected)
        assert all(
            array[rows.index(row), names.index(name)] == bits
            for (row, name), bits in expected.items()
        )


def test_features_are_sorted_and_outliers_marked(small):
    names = small.names[5:9]
    figure = plots.feature_ranges(small.statistics, small.analyzed, names)
    marked_any = 0
    for axes, name in zip(figure.axes, names, strict=True):
        own = small.raw[small.names.index(name)].reshape(-1, WIDTH)
        ranges = np.sort(own.max(axis=0) - own.min(axis=0))[::-1]
        line, marks = axes.lines[:2]
        np.testing.assert_allclose(line.get_ydata(), ranges, rtol=1e-6)
        far = ranges[ranges > 2.5 * np.median(ranges)]
        np.testing.assert_allclose(marks.get_ydata(), far, rtol=1e-6)
        marked_any += len(far)
        assert f"{len(far)} of {WIDTH} features" in axes.get_title(loc="left")
    assert marked_any


def test_convergence_is_the_mean_over_all_subsets_at_the_worst_step(small):
    axes = small.draw("convergence").axes[0]
    by_image = small.raw.reshape(*small.raw.shape[:3], -1)
    low, high = by_image.min(axis=-1).astype(float), by_image.max(axis=-1).astype(float)
    parts = np.empty((len(low), 4))
    for size in range(1, 5):
        subsets = [list(own) for own in combinations(range(4), size)]
        shown = [high[..., own].max(axis=-1) - low[..., own].min(axis=-1) for own in subsets]
        parts[:, size - 1] = (np.mean(shown, axis=0) / ranges_of(by_image)).min(axis=1)
    lines = {line.get_label(): line for line in axes.lines}
    median = lines["median layer"]
    np.testing.assert_array_equal(median.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(median.get_ydata(), np.median(parts, axis=0), rtol=1e-6)
    worst = parts[:, 1].argmin()
    np.testing.assert_allclose(lines[small.names[worst]].get_ydata(), parts[worst], rtol=1e-6)
    mark = next(line for line in axes.lines if "enough" in line.get_label())
    np.testing.assert_allclose(mark.get_xydata(), [[2, 1 / 1.05]])
    above = small.analyzed.range_growth.values <= 0.05
    np.testing.assert_array_equal(parts[:, 1] >= 1 / 1.05, above)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=12).map(sorted),
    st.floats(0.1, 8),
)
def test_labels_are_spread_out_no_more_than_they_must(wanted, apart):
    wanted = np.array(wanted)
    places = drawing.spread_out(wanted, apart, 0, 100)
    assert (np.diff(places) >= apart - 1e-9).all()
    assert (places >= -1e-9).all()
    assert (places <= 100 + 1e-9).all()
    free = np.diff(wanted, prepend=-np.inf, append=np.inf)
    alone = (free[:-1] >= apart * len(wanted)) & (free[1:] >= apart * len(wanted))
    np.testing.assert_allclose(places[alone], wanted[alone])


def to_draw(sample):
    for name in PICTURES:
        FigureCanvasAgg(sample.draw(name)).draw()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_steps", "num_images", "streams"),
    [(1, 1, ("image",)), (1, 3, ("image", "text"))],
)
def test_few_steps_images_and_streams_are_drawn(num_steps, num_images, streams):
    to_draw(Sample(1, num_steps, num_images, streams=streams, kinds=("mlp.fc2",)))


def test_one_image_is_nothing_to_compare():
    sample = Sample(1, 2, 1, kinds=())
    texts = [text.get_text() for text in sample.draw("convergence").axes[0].texts]
    assert texts == ["one image: nothing to compare it with"]


def constant(raw):
    raw[2] = 0
    raw[3, :, :, :, 1:] = 0  # one feature that changes
    raw[5] = 0.25


@pytest.mark.slow
def test_layers_of_constant_values_are_drawn():
    to_draw(Sample(1, 3, 2, change=constant, streams=("image",), kinds=("mlp.fc2",)))


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["some", "all"])
def test_unknown_and_zero_values_are_drawn(small, layers):
    sample = object.__new__(Sample)
    kept = np.flatnonzero(np.isin(small.statistics.block, ["mm_block_0", "t_embedder"]))[:12]
    unknown, zero = (slice(2, 5), slice(5, 8)) if layers == "some" else (slice(12), slice(0))
    for name in ("statistics", "analyzed"):
        dataset = getattr(small, name).isel(layer=kept).copy(deep=True)
        for variable in dataset.data_vars.values():
            if variable.dtype.kind in "fi":
                variable[{"layer": zero}] = 0
                variable[{"layer": unknown}] = np.nan if variable.dtype.kind == "f" else 0
        setattr(sample, name, dataset)
    sample.recommended = small.recommended.isel(layer=kept)
    to_draw(sample)
