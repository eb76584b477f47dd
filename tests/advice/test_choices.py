import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner

import calibzarr
from calibzarr.advice import choices, methods
from calibzarr.advice.methods import base
from calibzarr.commands import export_config
from calibzarr.errors import OptionError
from calibzarr.export import config
from tests.support.stores import shrunk

LOOKUP = '''"""The bits of a table, by kind of layer."""

from calibzarr.advice.methods.base import Chosen, Method

TABLE = {"mlp.fc1": 4, "mlp.fc2": 8}


def _choose(evidence, _):
    bits = [TABLE.get(kind, 6) for kind in evidence.kinds]
    return Chosen.of_bits(evidence, activation=bits, weight=bits)


def _reasons(evidence, _, chosen):
    return [f"the table says {bits}" for bits in chosen.activation]


def _provenance(_):
    return {"table": "by hand", "rows": len(TABLE)}


METHOD = Method(choose=_choose, reasons=_reasons, provenance=_provenance)
'''


@pytest.fixture
def lookup(tmp_path, monkeypatch):
    """A method as someone adds it: one file in the folder of methods, here in another folder."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "a_lookup_table.py").write_text(LOOKUP)
    methods.__path__.append(str(folder))
    yield "a_lookup_table"
    methods.__path__.remove(str(folder))
    sys.modules.pop("calibzarr.advice.methods.a_lookup_table", None)
    vars(methods).pop("a_lookup_table", None)
    importlib.reload(export_config)


def test_every_choice_is_one_that_is_typed():
    assert get_args(choices.Granularity) == choices.GRANULARITIES
    assert get_args(choices.FileFormat) == choices.FILE_FORMATS
    assert get_args(choices.Clip) == choices.CLIPS
    assert tuple(choices.SORTS) == get_args(choices.Sort)


def test_methods_are_the_modules_of_their_folder():
    files = sorted(Path(methods.__file__).parent.glob("*.py"))
    named = [file.stem for file in files if file.stem not in ("__init__", "base")]
    assert choices.methods() == tuple(named)
    assert {"budget", "range", "target", "uniform"} <= set(named)


def test_a_new_method_is_one_file(lookup, replayed, tmp_path):
    path = shrunk(replayed.path, tmp_path / "a.zarr")
    recommended = calibzarr.recommend(path, method=lookup)
    wanted = np.array(
        [{"mlp.fc1": 4, "mlp.fc2": 8}.get(kind, 6) for kind in recommended.kind.values]
    )
    blocks = (recommended.role == "output").values
    wanted[blocks] = 8  # the most of the linear layers that they speak for
    np.testing.assert_array_equal(recommended.weight_bits, wanted)
    of_text = recommended.text_only.values  # the exceptions of every method
    np.testing.assert_array_equal(recommended.activation_bits[~of_text], wanted[~of_text])

    command = importlib.reload(export_config).export_config_command
    runner = CliRunner()
    assert lookup in runner.invoke(command, ["--help"]).output
    file = tmp_path / "a.json"
    result = runner.invoke(command, [str(path), str(file), "--method", lookup])
    assert (result.exit_code, result.exception) == (0, None)
    content = json.loads(file.read_text())
    assert content["provenance"]["method"] == lookup
    assert content["provenance"]["table"] == "by hand"
    assert content["provenance"]["clip"] == "lp"
    layer = str(recommended.layer.values[0])
    assert content["layer_configs"][layer]["reason"] == f"the table says {wanted[0]}"
    with pytest.raises(OptionError, match="weight_bits is nothing to the method a_lookup_table"):
        config.export_config(path, file, force=True, method=lookup, weight_bits=4.0)


def test_what_is_no_method_is_refused_with_those_there_are(lookup, replayed):
    with pytest.raises(OptionError, match=f"one of .*{lookup}.*, got 'guess'"):
        calibzarr.recommend(replayed.path, method="guess")


WRONG = {
    "nothing": ("return None", "must give Chosen.activation of shape"),
    "one phase": (
        "return replace(Chosen.of_bits(evidence, bits, bits), by_phase=np.array(bits))",
        "must give Chosen.by_phase of shape",
    ),
    "bits for positions": (
        "return replace(Chosen.of_bits(evidence, bits, bits), weight=np.full(len(bits), 99))",
        "must give Chosen.weight of shape",
    ),
    "odd bits": (
        "return Chosen.of_bits(evidence, [9] * len(bits), bits)",
        r"bits must be of \(2, 3, 4, 5, 6, 7, 8\), got 9",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_method_gives_is_checked_and_the_method_named(lookup, replayed, monkeypatch, wrong):
    line, message = WRONG[wrong]
    names = {"np": np, "replace": replace, "Chosen": base.Chosen}
    exec(f"def choose(evidence, _):\n    bits = [4] * len(evidence.names)\n    {line}", names)
    method = replace(base.load(lookup), choose=names["choose"])
    monkeypatch.setattr(base, "load", lambda name: method)
    with pytest.raises((TypeError, ValueError), match=message):
        calibzarr.recommend(replayed.path, method=lookup)


def test_a_module_without_a_method_is_named(lookup, monkeypatch):
    module = importlib.import_module(f"calibzarr.advice.methods.{lookup}")
    monkeypatch.delattr(module, "METHOD")
    with pytest.raises(TypeError, match=r"a_lookup_table.py names no METHOD"):
        base.load(lookup)
