"""Sizes that a reader can hold; which folder may import which, import-linter checks."""

import ast
import re
from collections import Counter

import pytest

from tests.support.files import ROOT

MODULE_LINES, FUNCTION_LINES, FOLDER_MODULES = 350, 45, 14

PACKAGE = ROOT / "calibzarr"
MODULES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def lines_without_docstring(function):
    """Lines of a function, its signature included and its decorators and docstring not."""
    count = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        count -= docstring.end_lineno - docstring.lineno + 1
    return count


def test_no_module_and_no_function_is_too_long():
    too_long = {}
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        name = str(path.relative_to(ROOT))
        if len(text.splitlines()) > MODULE_LINES:
            too_long[name] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = lines_without_docstring(node)
                if lines > FUNCTION_LINES:
                    too_long[f"{name}: {node.name}"] = lines
    assert not too_long


def test_no_folder_but_that_of_the_commands_is_too_full():
    counts = Counter(path.parent for path in MODULES if path.parent != PACKAGE / "commands")
    assert {str(folder): n for folder, n in counts.items() if n > FOLDER_MODULES} == {}


def test_all_that_commands_print_goes_through_what_makes_it_visible():
    prints = re.compile(r"click\.echo\((?!visible)|(?<![\w.])print\(|\bConsole\((?!quiet=True)")
    printing = {path.name for path in MODULES if prints.search(path.read_text("utf-8"))}
    assert printing == {"cli.py"}  # help


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f(\n    x,\n):\n    return x", 4),
        ('def f(x):\n    """Say.\n\n    More.\n    """\n    return x', 2),
        ('def f(x):\n    return """a\n    b"""', 3),
    ],
)
def test_docstrings_alone_are_not_counted(source, lines):
    assert lines_without_docstring(ast.parse(source).body[0]) == lines
