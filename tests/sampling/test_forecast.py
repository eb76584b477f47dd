import os
from dataclasses import replace

import pytest

from calibzarr.models import registry
from calibzarr.sampling.forecast import forecast
from calibzarr.sampling.options import BuildOptions
from calibzarr.sampling.plan import plan
from calibzarr.storage import schema


@pytest.fixture
def plan_of_groups(tmp_path):
    """A plan for 12 images in groups of 4, and a way to have its images at some times."""
    path = tmp_path / "a.zarr"
    planned = plan(path, BuildOptions(num_images=12, batch_size=4))

    def complete(times):
        (path / "latents").mkdir(parents=True)
        (path / "latents" / "zarr.json").touch()
        for image, time in times.items():
            file = path / "latents" / schema.LATENTS.key(image)
            file.touch()
            os.utime(file, (time, time))
        return replace(planned, root=object())

    return planned, complete


def test_without_images_the_time_is_not_known(plan_of_groups):
    planned, complete = plan_of_groups
    found = forecast(planned)
    assert (found.images, found.seconds) == (12, None)
    assert found.disk_bytes == 12 * planned.image_bytes
    assert found.weight_bytes == planned.entry.weight_bytes
    assert found.batch_bytes == registry.load("tiny").batch_bytes(4, 64, 50, guided=True)
    one_group = complete(dict.fromkeys(range(4), 100.0))
    assert (forecast(one_group).images, forecast(one_group).seconds) == (8, None)


def test_time_is_that_of_groups_by_their_last_images(plan_of_groups):
    _, complete = plan_of_groups
    times = {image: 100.0 + 30 * (image // 4) + image % 4 for image in range(9)}
    found = forecast(complete(times))
    assert found.images == 3
    assert found.seconds == pytest.approx((30 + 27) / 2)  # the last group is there in part
