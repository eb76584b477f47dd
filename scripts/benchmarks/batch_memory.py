"""Whether the estimate of a batch's memory is that which a build takes."""

from benchmarks.measure import Entry, Figure, Settings, peak_memory
from calibzarr.models import registry
from calibzarr.models.memory import SizedModel

_STEPS = 2

_LOAD = """
from calibzarr.models import registry
import calibzarr.sampling.builder
registry.load("tiny")
"""
_BUILD = """
import sys
import calibzarr
path, count, size, steps = sys.argv[1], *map(int, sys.argv[2:])
calibzarr.build(path, num_images=count, num_steps=steps, image_size=size, batch_size=count)
"""


def batches(settings: Settings) -> list[Figure]:
    """Estimated over measured peak of a process, or the inverse where that is more."""
    model = registry.load("tiny")
    assert isinstance(model, SizedModel)
    loaded = peak_memory(_LOAD)
    figures = []
    for size in settings.choose((64, 128), (64,)):
        for count in settings.choose((1, 8, 64), (1,)):
            with settings.scratch() as directory:
                peak = peak_memory(_BUILD, f"{directory}/a.zarr", count, size, _STEPS)
            estimate = loaded + model.batch_bytes(count, size, _STEPS, guided=True)
            what = f"peak of a build, {size} pixels, batch {count}, estimated and measured"
            ratio = max(estimate / peak, peak / estimate)
            note = f"{estimate / 1e6:.0f} and {peak / 1e6:.0f} MB"
            figures.append(Figure("batches", what, [ratio], at_most=2, note=note))
    return figures


ENTRIES: dict[str, Entry] = {"batches": batches}
