import numpy as np
import pytest
import xarray as xr
from PIL import Image, ImageDraw, ImageFont

from calibzarr.plots.images import contact_sheet, film_strip, film_strips, side_by_side
from tests.support.files import ROOT

EXAMPLE = ROOT / "stores" / "example.zarr"


def dataset(count, size=64):
    pictures = np.zeros((count, size, size, 3), np.uint8)
    pictures[..., 0] = np.arange(count, dtype=np.uint8)[:, None, None] + 10
    return xr.Dataset(
        {"decoded": (("image", "row", "column", "rgb"), pictures)},
        coords={"prompt": ("image", [f"a very long prompt number {i} " * 9 for i in range(count)])},
    )


@pytest.mark.parametrize(("count", "columns"), [(1, 4), (5, 2), (8, 4)])
def test_every_picture_is_on_the_sheet_in_order(count, columns):
    sheet = np.asarray(contact_sheet(dataset(count), columns))
    tops = []
    for i in range(count):
        rows, places = np.nonzero((sheet == [i + 10, 0, 0]).all(axis=-1))
        assert len(rows) == 192 * 192  # whole, enlarged three times, under no caption
        tops.append((rows.min(), places.min()))
    assert tops == sorted(tops)
    assert len({left for _, left in tops}) == min(count, columns)


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet(dataset(0))


def places(whole, part):
    """Left and top of everywhere that a picture is within another."""
    height, width = part.shape[:2]
    corners = np.argwhere((whole == part[0, 0]).all(axis=-1))
    return [
        (left, top)
        for top, left in corners
        if np.array_equal(whole[top : top + height, left : left + width], part)
    ]


def label(text):
    font = ImageFont.load_default(12)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    image = Image.new("RGB", (right, bottom), "white")
    ImageDraw.Draw(image).text((0, 0), text, fill="black", font=font)
    return np.asarray(image)[top:, left:]


@pytest.fixture(scope="module")
def example():
    return xr.open_zarr(EXAMPLE).load()


@pytest.mark.parametrize(("every", "steps"), [(5, range(0, 51, 5)), (20, [0, 20, 40, 50])])
def test_a_film_strip_shows_decoded_states_over_their_noise_levels(example, tiny, every, steps):
    strip = np.asarray(film_strip(example, 1, tiny.decode, every))
    found = []
    for step in steps:
        frame = tiny.decode(example.latents.values[1, step])
        ((left, top),) = places(strip, frame.repeat(2, axis=0).repeat(2, axis=1))
        found.append((left, top))
        below = strip[top + 128 :, left : left + 128]
        assert places(below, label(f"step {step}"))
        assert places(below, label(f"sigma {example.sigma.values[step]:.2f}"))
    assert found == sorted(found)
    assert len({top for _, top in found}) == 1
    last = strip[top : top + 128 : 2, left : left + 128 : 2].astype(int)
    assert (np.abs(last - example.decoded.values[1]) <= 1).mean() > 0.999
    assert places(strip[:top], label("tiny, 50 steps, cfg weight 3"))
    prompt = "a purple star at the bottom on a black background"
    assert places(strip[:top], label(f"image 1, seed 1: {prompt}"))


def test_a_film_strip_of_half_precision_and_other_orders_is_the_same(example, tiny):
    halved = example.assign(latents=example.latents.astype(np.float16))
    expected = film_strip(halved.assign(latents=halved.latents.astype(np.float32)), 0, tiny.decode)
    turned = halved.assign(
        latents=halved.latents.transpose("step", "image", "width", "height", "channel")
    )
    np.testing.assert_array_equal(film_strip(turned, 0, tiny.decode), expected)


def test_a_film_strip_needs_a_complete_image_and_a_step(example, tiny):
    with pytest.raises(ValueError, match=r"image must be 0 to 3.* got 4"):
        film_strip(example, 4, tiny.decode)
    with pytest.raises(ValueError, match="every must be 1 or more, got 0"):
        film_strip(example, 0, tiny.decode, 0)
    holes = example.assign(latents=example.latents.where(example.image != 2))
    with pytest.raises(ValueError, match="image 2 is not complete"):
        film_strip(holes, 2, tiny.decode)


def test_stores_stand_above_each_other_with_seeds_and_prompts_below(example):
    inverted = example.assign(decoded=255 - example.decoded)
    sheet = np.asarray(side_by_side({"one": example, "another": inverted}, [2, 0]))
    for dataset in (example, inverted):
        rows = [
            places(sheet, dataset.decoded.values[image].repeat(3, axis=0).repeat(3, axis=1))
            for image in (2, 0)
        ]
        assert all(rows)
    assert sheet.shape[1] == 2 * (192 + 8) + 8
    assert sheet[-40:].min() < 100  # the captions


@pytest.mark.parametrize(("greatest", "factor"), [(255, 1), (100, 2), (3, 64), (0, 128)])
def test_the_difference_is_made_bright_by_a_factor_that_is_told(example, greatest, factor):
    first = example.assign(decoded=example.decoded * 0)
    other = first.decoded.copy(deep=True)
    other[0, 5, 5] = greatest
    sheet = np.asarray(
        side_by_side({"a": first, "b": first.assign(decoded=other)}, [0], difference=True)
    )
    assert places(sheet, label(f"difference, times {factor}" if greatest else "equal"))
    expected = (other.values[0].astype(int) * factor).astype(np.uint8)
    assert places(sheet, expected.repeat(3, axis=0).repeat(3, axis=1))
    if greatest:
        error = 10 * np.log10(64 * 64 * 255**2 / greatest**2)
        assert places(sheet, label(f"PSNR {error:.1f} dB"))


def test_a_large_picture_is_made_smaller_to_fit():
    large = np.asarray(contact_sheet(dataset(1, size=512)))
    assert large.shape[1] == 256 + 2 * 8
    assert (large == [10, 0, 0]).all(axis=-1).sum() == 256 * 256


def test_films_of_two_stores_and_their_difference_stand_above_each_other(example, tiny):
    changed = example.latents.copy(deep=True)
    changed[0, 40:] *= 0.5
    other = example.assign(latents=changed)
    sheet = np.asarray(
        film_strips({"one": example, "other": other}, 0, tiny.decode, 40, difference=True)
    )
    for step in (0, 40, 50):
        frames = [tiny.decode(each.latents.values[0, step]) for each in (example, other)]
        assert all(places(sheet, frame.repeat(2, axis=0).repeat(2, axis=1)) for frame in frames)
    assert places(sheet, label("equal"))
