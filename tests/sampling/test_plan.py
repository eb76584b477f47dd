import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

import calibzarr
from calibzarr.errors import OptionError
from calibzarr.sampling import plan as build_plan
from calibzarr.sampling.options import BuildOptions
from calibzarr.sampling.plan import plan, plan_of
from calibzarr.storage import store
from calibzarr.storage.manifest import read_root
from tests.support.files import EXAMPLE, reads_of


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "sd4"}, "unknown model 'sd4'; the models are tiny, sd3-medium,"),
        ({"image_size": 60}, "multiple of 16 from 16 to 128 for tiny, got 60"),
        ({"image_size": 144}, "got 144"),
        ({"num_steps": 0}, "num_steps must be 1 or more, got 0"),
        ({"num_images": -1}, "num_images must be 1 or more, got -1"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"cfg_weight": float("nan")}, "cfg_weight must be 0 or more, got nan"),
        ({"latent_dtype": "int8"}, "float32 or float16, got 'int8'"),
        ({"images": (3, 3)}, "0 <= A < B <= 16, got 3:3"),
        ({"images": (0, 17)}, "got 0:17"),
        ({"num_images": 449}, "has 448; ask for 448, or use repeat to"),
        ({"model": "flux-schnell", "cfg_weight": 1.0}, "takes no classifier-free guidance"),
        ({"model": "sd3-medium"}, "give a file with prompts"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_created(tmp_path, options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        calibzarr.build(tmp_path / "new" / "a.zarr", **options)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_told_before_the_start(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(OSError, match=r"needs about 8\d\.\d MB, but the disk has 1\.0 MB free"):
        calibzarr.build(tmp_path / "a.zarr", num_images=400)
    assert list(tmp_path.iterdir()) == []


def test_default_path_is_named_after_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build_plan.plan().path == Path("stores") / "tiny.zarr"
    assert build_plan.plan().num_images == 16


def test_what_is_not_given_comes_from_the_store_that_is_resumed():
    chosen = plan(EXAMPLE, BuildOptions(resume=True, seed=0))
    stored = read_root(EXAMPLE).attributes
    for name in ("num_steps", "cfg_weight", "image_size", "batch_size", "latent_dtype", "seed"):
        assert getattr(chosen.settings, name) == stored[name]
    assert chosen.num_images == stored["num_images"]
    assert chosen.root.attributes == stored


def test_the_root_of_a_store_to_resume_is_read_once():
    with reads_of(EXAMPLE / "zarr.json") as reads:
        plan(EXAMPLE, BuildOptions(resume=True))
    assert len(reads) == 1


def test_the_plan_of_a_store_makes_its_images():
    root = read_root(EXAMPLE)
    texts, seeds = store.stored_prompts(root)
    planned = plan_of(EXAMPLE, root.attributes, texts, seeds)
    resumed = plan(EXAMPLE, BuildOptions(resume=True))
    assert planned.settings == resumed.settings
    assert (planned.prompts, planned.seeds) == (resumed.prompts, resumed.seeds)
    assert planned.entry == resumed.entry
    assert planned.sizes == resumed.sizes


def test_sizes_are_those_of_the_arrays():
    dataset = calibzarr.open_store(EXAMPLE)
    sizes = plan(EXAMPLE, BuildOptions(resume=True)).sizes.by_dimension
    assert sizes == {name: dataset.sizes[name] for name in sizes}


@pytest.mark.parametrize("options", [{}, {"images": (0, 4)}, {"seed": 3}])
def test_resume_alone_begins_nothing_and_names_stores_near(tmp_path, options):
    for name in ("tiny.zarr", "other.zarr"):
        (tmp_path / name).symlink_to(EXAMPLE)
    with pytest.raises(
        OptionError, match=r"no store at .*/tini.zarr to go on with; near it: .*/tiny"
    ):
        plan(tmp_path / "tini.zarr", BuildOptions(resume=True, **options))
    with pytest.raises(OptionError, match="say what with model, prompts or num_images"):
        plan(tmp_path / "new" / "a.zarr", BuildOptions(resume=True, **options))
    assert plan(tmp_path / "a.zarr", BuildOptions(resume=True, num_images=3)).root is None
