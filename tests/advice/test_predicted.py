import shutil

import pytest

from calibzarr.advice import recommendation
from calibzarr.advice.options import Options
from calibzarr.storage.manifest import read_root
from tests.support.measuring import measure


@pytest.fixture(scope="module")
def root(replayed, tmp_path_factory):
    path = shutil.copytree(replayed.path, tmp_path_factory.mktemp("levers") / "a.zarr")
    measure(path, images=1, probes=1, steps=[0, 1, 2])
    return read_root(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "moved"),
    [
        ({}, [("weight_bits", 5), ("weight_bits", 3), ("activation_bits", 7)]),
        ({"method": "target", "output_db": -20.0}, [("output_db", -17), ("output_db", -23)]),
    ],
)
def test_a_lever_is_what_a_recommendation_with_it_would_be(root, options, moved):
    now = recommendation.of_store(root, Options(**options), with_levers=True).attrs
    assert [(lever.option, lever.value) for lever in now["levers"]] == moved
    before = now["prediction"]
    for lever in now["levers"]:
        changed = Options(**{**options, lever.option: lever.value})
        then = recommendation.of_store(root, changed).attrs["prediction"]
        difference = then["output_sqnr_db"] - before["output_sqnr_db"]
        assert lever.output_db == pytest.approx(difference, abs=1e-9)
        assert lever.weight_bytes == then["weight_bytes"] - before["weight_bytes"]
        assert lever.bits == pytest.approx(
            [then[name] - before[name] for name in ("weight_bits", "activation_bits")]
        )


def test_nothing_is_told_where_nothing_is_predicted(replayed):
    found = recommendation.of_store(read_root(replayed.path), Options(), with_levers=True)
    assert found.attrs["levers"] == []
