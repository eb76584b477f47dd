import numpy as np
import pytest

from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import reduce
from calibzarr.statistics.running import Statistics

BINS = LogBins()
STEPS = (0, 3, 7)
NUM_IMAGES = 6
WIDTH = {0: 4, 1: 9}  # features of each layer


def values_of(layer, step, image):
    """Values of one image: both guidance halves, with a spread that depends on the step."""
    generator = np.random.default_rng([layer, step, image])
    return (1 + step) * generator.standard_t(3, (2, 1, 5, WIDTH[layer])).astype(np.float32)


def empty(bins=BINS, steps=STEPS):
    return Statistics.empty(bins, len(WIDTH), steps, range(NUM_IMAGES), max(WIDTH.values()))


def observe(batches, steps=STEPS, statistics=None):
    statistics = statistics or empty(steps=steps)
    for images in batches:
        for step in steps:
            for layer in WIDTH:
                values = np.concatenate([values_of(layer, step, i) for i in images], axis=1)
                statistics.update([layer], step, images, reduce(values, BINS))
        statistics.covered[[statistics.images.index(image) for image in images]] = True
    return statistics


def assert_same(actual, expected):
    """Counts and extremes exactly, means to 1e-6."""
    np.testing.assert_array_equal(actual.covered, expected.covered)
    first, second = actual.derived(), expected.derived()
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        if "mean" in name or "std" in name:
            np.testing.assert_allclose(first[name], second[name], rtol=1e-6, atol=1e-9)
        else:
            np.testing.assert_array_equal(first[name], second[name])


@pytest.fixture(scope="module")
def whole():
    return observe([[image] for image in range(NUM_IMAGES)])


def test_statistics_are_numpys_on_the_raw_values(whole):
    derived = whole.derived()
    for layer, width in WIDTH.items():
        for place, step in enumerate(STEPS):
            images = [values_of(layer, step, image) for image in range(NUM_IMAGES)]
            values = np.concatenate(images, axis=1)
            at = layer, place
            assert derived["value_count"][at] == values.size
            np.testing.assert_array_equal(derived["histogram"][at], BINS.counts(values.ravel()))
            assert derived["value_min"][at] == values.min()
            assert derived["value_max"][at] == values.max()
            wide = values.astype(np.float64)
            np.testing.assert_allclose(derived["value_mean"][at], wide.mean(), rtol=1e-9)
            np.testing.assert_allclose(derived["value_std"][at], wide.std(), rtol=1e-9)
            for image, own in enumerate(images):
                actual = [derived[f"image_{n}"][at][image] for n in ("min", "max", "mean", "std")]
                expected = own.min(), own.max(), own.mean(), own.std()
                np.testing.assert_allclose(actual, expected, rtol=1e-5)
            lows = np.stack([own.min(axis=(0, 1, 2)) for own in images])
            highs = np.stack([own.max(axis=(0, 1, 2)) for own in images])
            for name, expected in [
                ("feature_min", lows.min(axis=0)),
                ("feature_max", highs.max(axis=0)),
                ("feature_mean_min", lows.mean(axis=0, dtype=float)),
                ("feature_mean_max", highs.mean(axis=0, dtype=float)),
            ]:
                np.testing.assert_allclose(derived[name][at][:width], expected, rtol=1e-6)
                assert np.isnan(derived[name][at][width:]).all()


@pytest.mark.parametrize("batches", [[[5, 2, 0], [1, 4, 3]], [[3], [1], [0, 5], [2, 4]]])
def test_order_and_batches_do_not_matter(whole, batches):
    assert_same(observe(batches), whole)


def test_parts_merge_to_the_whole(whole):
    part = observe([[0, 3]])
    part.merge(observe([[1], [2, 4]]))
    part.merge(observe([[5]]))
    assert_same(part, whole)


def test_statistics_survive_being_stored(whole):
    part = Statistics.empty(BINS, len(WIDTH), STEPS, [0, 3], max(WIDTH.values()))
    observe([[0, 3]], statistics=part)
    restored = Statistics.from_derived(BINS, STEPS, [0, 3], part.derived())
    assert_same(restored, part)
    restored = restored.placed(STEPS, range(NUM_IMAGES))
    restored.merge(observe([[1, 2], [4, 5]]))
    assert_same(restored, whole)


def test_steps_and_images_are_added_without_a_change():
    part = observe([[0], [1]], steps=(3,))
    wider = part.placed(STEPS, range(NUM_IMAGES + 2))
    assert wider.covered.shape == (NUM_IMAGES + 2, len(STEPS))
    derived, own = wider.derived(), part.derived()
    for name, array in derived.items():
        kept = array[:, 1:2, :NUM_IMAGES] if name.startswith("image_") else array[:, 1:2]
        np.testing.assert_array_equal(kept, own[name])
        unknown = array[:, [0, 2]]
        assert (np.isnan(unknown) if unknown.dtype.kind == "f" else unknown == 0).all()


def test_unequal_parts_are_refused(whole):
    part = observe([[0]])
    with pytest.raises(ValueError, match=r"mantissa_bits=6.*mantissa_bits=5"):
        part.merge(empty(bins=LogBins(mantissa_bits=5)))
    with pytest.raises(ValueError, match="other layers, steps or images"):
        part.merge(empty(steps=(0, 3)))
    with pytest.raises(ValueError, match="image 0 was observed at step 0 by both"):
        part.merge(whole)


def test_an_image_of_nothing_but_nan_is_no_value():
    statistics = empty()
    nothing = np.full((2, 1, 5, 4), np.nan, dtype=np.float32)
    statistics.update([0], 0, [1], reduce(nothing, BINS))
    derived = statistics.derived()
    assert derived["non_finite_count"][0, 0] == nothing.size
    assert derived["value_count"][0, 0] == 0
    for name in derived.keys() - {"histogram", "non_finite_count", "value_count"}:
        assert np.isnan(derived[name][0, 0]).all()


def test_a_feature_without_a_finite_value_in_one_image_is_that_of_the_others():
    statistics = empty()
    values = np.concatenate([values_of(0, 0, image) for image in (0, 1)], axis=1)
    values[:, 1, :, 2] = np.inf
    statistics.update([0], 0, [0, 1], reduce(values, BINS))
    derived = statistics.derived()
    np.testing.assert_allclose(
        derived["feature_mean_max"][0, 0, 2], values[:, 0, :, 2].max(), rtol=1e-6
    )
    others = values[..., [0, 1, 3]].max(axis=(0, 2)).mean(axis=0)
    np.testing.assert_allclose(derived["feature_mean_max"][0, 0, [0, 1, 3]], others, rtol=1e-6)
    assert all(not np.isinf(array).any() for array in derived.values())
    restored = Statistics.from_derived(BINS, STEPS, range(NUM_IMAGES), derived)
    np.testing.assert_array_equal(
        restored.derived()["feature_mean_max"], derived["feature_mean_max"]
    )
