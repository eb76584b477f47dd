import os
import shutil

import numpy as np
import pytest

import calibzarr
from calibzarr.integrity import picture_fit
from calibzarr.integrity.repair import repair
from calibzarr.integrity.verification import verify
from calibzarr.storage import schema, shards
from tests.support.stores import without_index

NUM_IMAGES = 12


def outlines(order, num_images=NUM_IMAGES, size=32):
    """Pictures that a linear map makes of latents, and noise; each image has that of ``order``."""
    random = np.random.default_rng(0)
    latents = random.standard_normal((num_images, 16, size, size))
    pictures = np.einsum("nchw,cr->nhwr", latents, random.standard_normal((16, 3)))
    pictures += 0.3 * random.standard_normal(pictures.shape)
    pictures = pictures.repeat(8, axis=1).repeat(8, axis=2)
    return [picture_fit.outline(latents[i], pictures[j]) for i, j in enumerate(order)]


def test_pictures_in_their_place_stay_and_exchanged_ones_are_told():
    others = range(3, NUM_IMAGES)
    for order in ([0, 1, 2, *others], [1, 0, 2, *others], [2, 0, 1, *others]):
        np.testing.assert_array_equal(picture_fit.owners(outlines(order)), order)


def test_few_images_tell_nothing():
    np.testing.assert_array_equal(picture_fit.owners(outlines([1, 0, 2], 3)), [0, 1, 2])
    assert len(picture_fit.owners([])) == 0


def test_cells_are_means_of_pixels():
    (outline,) = outlines([0], 1, size=20)
    assert outline.latents.shape == (16 * 16, 17)
    picture = np.arange(18 * 18 * 3, dtype=np.float32).reshape(18, 18, 3)
    cells = picture_fit.outline(np.zeros((4, 2, 2)), picture).picture
    expected = picture.reshape(2, 9, 2, 9, 3).mean((1, 3)).reshape(4, 3)
    np.testing.assert_allclose(cells, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_once")
def test_exchanged_pictures_of_a_store_of_0_1_are_named_and_decoded_again(tmp_path, make_store):
    built = make_store(num_images=NUM_IMAGES, num_steps=4, image_size=32)
    path = without_index(shutil.copytree(built, tmp_path / "a.zarr"))
    for image, states in enumerate(calibzarr.open_store(path).latents.values):
        file = path / "latents" / schema.LATENTS.key(image)
        file.write_bytes(shards.encode(states))  # no picture's SHA-256
    assert verify(path).ok
    one, other = (path / "decoded" / schema.DECODED.key(image) for image in (2, 7))
    right = [one.read_bytes(), other.read_bytes()]
    os.rename(one, tmp_path / "aside")
    os.rename(other, one)
    os.rename(tmp_path / "aside", other)
    findings = verify(path).findings
    assert [(f.check, f.image) for f in findings] == [("picture", 2), ("picture", 7)]
    assert [f.message[-2:] for f in findings] == [" 7", " 2"]
    repair(path)
    assert [one.read_bytes(), other.read_bytes()] == right
    assert verify(path).ok
