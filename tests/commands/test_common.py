import sys

import pytest

from calibzarr.commands.common import command_line, spelled
from calibzarr.errors import Call, Message, Option


@pytest.fixture(autouse=True)
def typed_plainly(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["calibzarr"])


def test_messages_are_spelled_as_they_are_typed():
    call = Call("import_legacy", ("old dir", "NEW.zarr"), {"model": ..., "cfg_weight": 7.5})
    message = Message(
        Option("latent_dtype"), " differs; give ", Option("layout", "nchw"), ": ", call
    )
    assert spelled(message) == (
        "--dtype differs; give --layout nchw: "
        "calibzarr import-legacy 'old dir' NEW.zarr --model MODEL --cfg-weight 7.5"
    )
    assert spelled("as it is") == "as it is"


def test_calls_are_commands_that_can_be_pasted():
    keywords = {"force": True, "images": (0, 4), "steps": [0, 25]}
    assert command_line(Call("collect", ("a.zarr",), keywords)) == (
        "calibzarr collect a.zarr --force --images 0:4 --steps 0,25"
    )
    repeated = {"keep": ("final layer", "*.mlp.fc1")}
    assert command_line(Call("quantize", ("a.zarr", "out"), repeated)) == (
        "calibzarr quantize a.zarr out --keep 'final layer' --keep '*.mlp.fc1'"
    )


def test_calls_are_typed_as_the_program_was(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/calibzarr/__main__.py"])
    assert command_line(Call("models")) == "python -m calibzarr models"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert command_line(Call("models")) == "uv run calibzarr models"
