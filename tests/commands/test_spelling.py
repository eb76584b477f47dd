import sys

import pytest

from calibzarr.commands.spelling import command_line, spelled
from calibzarr.errors import Call, Message, Option
from tests.support.commands import at_work


@pytest.fixture(autouse=True)
def typed_plainly(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["calibzarr"])


def test_messages_are_spelled_as_they_are_typed():
    call = Call("import_legacy", ("old dir", "NEW.zarr"), {"model": ..., "cfg_weight": 7.5})
    message = Message(
        Option("latent_dtype"), " differs; give ", Option("layout", "nchw"), ": ", call
    )
    with at_work("build"):
        assert spelled(message) == (
            "--dtype differs; give --layout nchw: "
            "calibzarr import-legacy 'old dir' NEW.zarr --model MODEL --cfg-weight 7.5"
        )
    assert spelled("as it is") == "as it is"


@pytest.mark.parametrize(
    ("command", "typed", "name", "expected"),
    [
        ("build", ["--prompt-csv", "p.csv"], "prompts", "--prompt-csv"),
        ("build", ["--prompt-csv=p.csv"], "prompts", "--prompt-csv"),
        ("build", [], "prompts", "--prompts"),
        ("export-config", ["--static"], "by_phase", "--static"),
        ("compare", ["--json", "f"], "json_file", "--json"),
        ("compare", [], "runs", "RUN..."),
        ("export-config", [], "store", "STORE"),
    ],
)
def test_options_are_named_as_they_were_typed(command, typed, name, expected):
    with at_work(command, *typed):
        assert spelled(Message(Option(name))) == expected


def test_calls_are_commands_that_can_be_pasted():
    keywords = {"force": True, "images": (0, 4), "steps": [0, 25]}
    assert command_line(Call("collect", ("a.zarr",), keywords)) == (
        "calibzarr collect a.zarr --force --images 0:4 --steps 0,25"
    )
    repeated = {"keep": ("final layer", "*.mlp.fc1")}
    assert command_line(Call("quantize", ("a.zarr", "out"), repeated)) == (
        "calibzarr quantize a.zarr out --keep 'final layer' --keep '*.mlp.fc1'"
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with programs in one that the shell does not search."""
    for name in ("calibzarr", "uv", "python"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_calls_are_typed_as_the_program_was(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/calibzarr/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    assert command_line(Call("models")) == "bin/python -m calibzarr models"
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert command_line(Call("models")) == "python -m calibzarr models"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert command_line(Call("models")) == "uv run calibzarr models"


def test_programs_that_the_shell_does_not_find_are_named_by_their_path(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(folder / "bin" / "calibzarr"), "models"])
    assert command_line(Call("models")) == "bin/calibzarr models"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    monkeypatch.setenv("UV", str(folder / "bin" / "uv"))
    assert command_line(Call("models")) == "bin/uv run calibzarr models"
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    assert command_line(Call("models")) == f"{folder}/bin/uv run calibzarr models"
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert command_line(Call("models")) == "uv run calibzarr models"
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH")
    assert command_line(Call("models")) == "calibzarr models"
