"""Cards of checkpoints: what compare measured is written into them, and into nothing else."""

import re
import shutil

import numpy as np
import pytest

import calibzarr
from calibzarr.export.measured import END, START
from calibzarr.models import registry
from calibzarr.models.quantized.layout import sha256
from calibzarr.storage.commit import update_attributes
from tests.support.comparing import noisy_copy
from tests.support.quantized_checkpoints import choice_of, write
from tests.support.stores import snapshot

NUM_IMAGES = 2
BEFORE, AFTER = "# A model, quantized\n\n", "\n## Loading\n"


@pytest.fixture(scope="module")
def built(make_store, tiny, tmp_path_factory):
    """A reference, a checkpoint, and its run."""
    place = tmp_path_factory.mktemp("built")
    reference = make_store(num_images=NUM_IMAGES, num_steps=2)
    config = {"model": "tiny", "model_fingerprint": tiny.fingerprint}
    write(place / "out", tiny, choice_of(tiny, ((64, 4),)), config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: tiny)
        calibzarr.build(place / "q4.zarr", reference=reference, model=place / "out")
    shutil.copytree(reference, place / "a.zarr")
    noisy_copy(reference, place / "b|c.zarr", 0.1, 20)
    return place


@pytest.fixture
def place(built, tmp_path, monkeypatch):
    """A directory to work in: all of them."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    about = {"kind": "checkpoint", "sha256": sha256(tmp_path / "out"), "path": "out"}
    fitted = {"fitted_images": [1, NUM_IMAGES]}
    update_attributes(tmp_path / "q4.zarr", {"quantized": {**about, **fitted}})
    (tmp_path / "out" / "README.md").write_text(f"{BEFORE}{START}Nothing yet.\n{END}{AFTER}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(card):
    """Cells of the table in a card, row by row."""
    lines = [line for line in card.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.slow
def test_figures_are_those_of_the_comparison_with_other_runs_beside(run, place):
    before = snapshot(place / "out")
    code, out, err = run("compare", "a.zarr", "q4.zarr", "b|c.zarr")
    assert (code, err) == (0, "")
    assert out.count("out/README.md: says what was measured of q4.zarr\n") == 1
    card = (place / "out" / "README.md").read_text()
    assert card.startswith(f"{BEFORE}{START}Measured on 2")
    assert card.endswith(f"{END}{AFTER}")
    assert f"{NUM_IMAGES} images against" in card
    note = f"the checkpoint was fitted to 1 of the {NUM_IMAGES} images compared"
    assert f"q4.zarr: {note}" in out
    assert f"Note: {note}" in card
    found = calibzarr.compare("a.zarr", ["q4.zarr", "b|c.zarr"])
    heading, rule, *rows = table(card)
    assert {len(heading), len(rule), *map(len, rows)} == {4}
    assert [row[0] for row in rows] == ["this checkpoint", r"`b\|c.zarr`"]
    for row, compared in zip(rows, found.runs, strict=True):
        psnr, ssim = compared.pictures.psnr_db, compared.pictures.ssim
        assert row[1].startswith(f"{np.mean(psnr):.1f} ({psnr.min():.1f} to {psnr.max():.1f}")
        assert row[2].startswith(f"{np.mean(ssim):.3f} (")
    forced = found.runs[0].teacher_forced.output_sqnr
    assert rows[0][3] == f"{forced.value:.1f} ({forced.low:.1f} to {forced.high:.1f})"
    assert rows[1][3] == ""
    after = snapshot(place / "out")
    assert {name for name in after if after[name] != before.get(name)} == {"README.md"}
    assert calibzarr.verify("q4.zarr", model=True).ok


@pytest.mark.slow
def test_a_section_is_replaced_and_begun_where_there_is_none(run, place):
    card = place / "out" / "README.md"
    assert run("compare", "a.zarr", "q4.zarr", "b|c.zarr")[0] == 0
    assert run("compare", "a.zarr", "q4.zarr")[0] == 0
    first = card.read_text()
    assert "`b" not in first
    assert first.count(START) == first.count(END) == 1
    assert run("compare", "a.zarr", "q4.zarr")[0] == 0
    assert card.read_text() == first
    card.write_text("# Mine")
    for _ in range(2):
        assert run("compare", "a.zarr", "q4.zarr")[0] == 0
        section = first.removeprefix(BEFORE).removesuffix(AFTER)
        assert card.read_text() == f"# Mine\n\n{section}"


def removed(out):
    (out / "README.md").unlink()


def read_only(out):
    (out / "README.md").chmod(0o444)


def not_text(out):
    (out / "README.md").write_bytes(b"\xff\xfe")


def a_directory(out):
    removed(out)
    (out / "README.md").mkdir()


def another(out):
    (out / "config.json").write_text((out / "config.json").read_text() + "\n")


def gone(out):
    shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (removed, "No such file"),
        (read_only, "read-only"),
        (not_text, "decode"),
        (a_directory, "no regular file"),
        (another, "not the one that made the run"),
        (gone, "it has no config.json"),
    ],
)
def test_what_cannot_be_written_is_a_note(run, place, change, reason):
    change(place / "out")
    before = snapshot(place)
    code, out, err = run("compare", "a.zarr", "q4.zarr")
    assert (code, err) == (0, "")
    (note,) = (line for line in out.splitlines() if "does not say what was measured" in line)
    assert note.startswith("out/README.md does not say what was measured: ")
    assert reason in note
    assert snapshot(place) == before


@pytest.mark.slow
def test_against_a_quantized_model_nothing_is_written(run, place):
    before = snapshot(place)
    code, out, _ = run("compare", "q4.zarr", "q4.zarr")
    assert code == 0
    assert "README.md" not in out
    assert snapshot(place) == before
