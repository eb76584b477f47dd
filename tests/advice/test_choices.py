import importlib
import json
import sys
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner

import calibzarr
from calibzarr.advice import choices, methods
from calibzarr.commands import export_config
from calibzarr.errors import OptionError
from calibzarr.export import config, configuration
from tests.support.stores import shrunk

LOOKUP = '''"""The bits of a table, by kind of layer."""

import numpy as np

from calibzarr.advice.methods.base import CHOICES, Chosen, Method

TABLE = {"fc1": 4, "fc2": 8}


def _bits(evidence):
    return [TABLE.get(str(name).rpartition(".")[2], 6) for name in evidence.names]


def _choose(evidence, options):
    index = np.searchsorted(CHOICES, _bits(evidence))
    by_phase = np.repeat(index[:, None], len(evidence.phases), axis=1)
    return Chosen(index, by_phase, index, by_phase.max(axis=0))


def _reasons(evidence, options, chosen):
    return [f"the table says {bits}" for bits in _bits(evidence)]


def _provenance(options):
    return {"table": "by hand", "rows": len(TABLE)}


METHOD = Method(choose=_choose, reasons=_reasons, provenance=_provenance)
'''


@pytest.fixture
def lookup(tmp_path, monkeypatch):
    """A method as someone adds it: one file in the folder of methods, here in another folder."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "lookup.py").write_text(LOOKUP)
    methods.__path__.append(str(folder))
    yield "lookup"
    methods.__path__.remove(str(folder))
    sys.modules.pop("calibzarr.advice.methods.lookup", None)
    vars(methods).pop("lookup", None)
    importlib.reload(export_config)


def test_every_choice_is_one_that_is_typed():
    assert get_args(choices.Granularity) == choices.GRANULARITIES
    assert get_args(choices.FileFormat) == choices.FILE_FORMATS
    assert get_args(choices.Clip) == choices.CLIPS
    assert tuple(choices.SORTS) == get_args(choices.Sort)


def test_methods_are_the_modules_of_their_folder():
    assert choices.methods() == ("budget", "range", "sqnr")


def test_a_new_method_is_one_file(lookup, replayed, tmp_path):
    path = shrunk(replayed.path, tmp_path / "a.zarr")
    recommended = calibzarr.recommend(path, method=lookup)
    wanted = [
        {"fc1": 4, "fc2": 8}.get(str(name).rpartition(".")[2], 6)
        for name in recommended.layer.values
    ]
    np.testing.assert_array_equal(recommended.activation_bits, wanted)
    np.testing.assert_array_equal(recommended.weight_bits, wanted)

    command = importlib.reload(export_config).export_config_command
    runner = CliRunner()
    assert "lookup" in runner.invoke(command, ["--help"]).output
    file = tmp_path / "a.json"
    result = runner.invoke(command, [str(path), str(file), "--method", lookup])
    assert (result.exit_code, result.exception) == (0, None)
    content = json.loads(file.read_text())
    assert content["provenance"]["method"] == lookup
    assert content["provenance"]["table"] == "by hand"
    assert content["provenance"]["clip"] == "mse"
    layer = str(recommended.layer.values[0])
    assert content["layer_configs"][layer]["reason"] == f"the table says {wanted[0]}"
    assert lookup in configuration.schema()["$defs"]["provenance"]["properties"]["method"]["enum"]
    with pytest.raises(OptionError, match="mean_bits and the method budget go together"):
        config.export(path, file, force=True, method=lookup, mean_bits=4.0)


def test_what_is_no_method_is_refused_with_those_there_are(lookup, replayed):
    with pytest.raises(OptionError, match="one of budget, range, sqnr, lookup, got 'guess'"):
        calibzarr.recommend(replayed.path, method="guess")
