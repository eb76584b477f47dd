"""What ``import calibzarr`` offers."""

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import calibzarr

LOOKED_FOR = (  # what a user looks for
    *("build", "collect", "sensitivity", "analyze", "recommend", "export_config", "quantize"),
    *("compare", "verify", "repair", "info", "open_store", "make_prompts", "read_prompts"),
    *("quantile", "import_legacy", "export_legacy", "contact_sheet", "film_strip"),
)
LONG = (
    "build",
    "collect",
    "compare",
    "export_legacy",
    "import_legacy",
    "quantize",
    "repair",
    "sensitivity",
    "verify",
)


@pytest.mark.parametrize("name", calibzarr.__all__)
def test_a_public_function_shows_its_keywords(name):
    function = getattr(calibzarr, name)
    parameters = inspect.signature(function).parameters.values()
    assert function.__name__ == name
    documentation = function.__doc__
    assert ":func:`" not in documentation.split("Args:")[0]  # it is documented in itself
    returns = function.__annotations__["return"] is not None
    assert not returns or "Returns:" in documentation or "Yields:" in documentation
    for parameter in parameters:
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.name != "console"
        assert f"        {parameter.name}: " in documentation
    defaults = [parameter.default for parameter in parameters if parameter.name == "progress"]
    assert defaults == ([None] if name in LONG else [])


def test_names_are_listed_before_anything_is_imported():
    code = (
        "import sys, calibzarr; assert set(calibzarr.__all__) <= set(dir(calibzarr)); "
        "print([name for name in ('mlx', 'numpy', 'xarray') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_what_users_look_for_is_there():
    assert set(LOOKED_FOR) < set(calibzarr.__all__)
    assert calibzarr.__version__ == version("calibzarr")
    assert "__version__" in dir(calibzarr)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = calibzarr.nothing
    with pytest.raises(AttributeError, match=r"no attribute 'analyse'; did you mean 'analyze'\?"):
        _ = calibzarr.analyse
