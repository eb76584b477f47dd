import subprocess
import sys

import pytest

STAND_INS = ["argmaxtools", "argmaxtools.utils", "argmaxtools.test_utils", "diffusionkit.utils"]


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )


@pytest.mark.slow
def test_import_needs_no_torch_says_nothing_and_leaves_no_stand_in():
    result = run(
        "import sys\n"
        "from calibzarr.models.compatibility import import_diffusionkit\n"
        "kit = import_diffusionkit()\n"
        "assert import_diffusionkit() is kit is sys.modules['diffusionkit.mlx']\n"
        f"print([name for name in [*{STAND_INS}, 'torch', 'coremltools'] if name in sys.modules])"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")


def test_module_that_the_user_has_imported_already_is_kept():
    result = run(
        "import sys, types, logging\n"
        "own = types.ModuleType('argmaxtools.utils'); own.get_logger = logging.getLogger\n"
        "sys.modules['argmaxtools.utils'] = own\n"
        "from calibzarr.models.compatibility import import_diffusionkit\n"
        "import_diffusionkit()\n"
        "assert sys.modules['argmaxtools.utils'] is own\n"
    )
    assert result.returncode == 0, result.stderr


def test_missing_diffusionkit_tells_how_to_install_it():
    result = run(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'diffusionkit': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from calibzarr import cli\n"
        "sys.argv = ['calibzarr', 'build', '/tmp/never', '--num-images', '1']\n"
        "cli.main()"
    )
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.endswith("install it with: pip install --no-deps diffusionkit==0.5.2")


@pytest.mark.parametrize("fails", [False, True])
def test_contexts_leave_mlx_as_it_was(fails, monkeypatch):
    import mlx.core as mx
    import mlx.nn as nn
    from huggingface_hub import constants

    from calibzarr.models.compatibility import lenient_updates, metal_names, offline

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delattr(mx.metal, "get_peak_memory")  # as it may be in MLX's next version
    before = nn.Module.update, dict(vars(mx.metal))
    try:
        with lenient_updates(), metal_names(), offline():
            assert nn.Module.update is not before[0]
            assert mx.metal.device_info()["memory_size"] == mx.get_memory_limit()
            assert mx.metal.get_peak_memory() == mx.get_peak_memory()
            assert constants.HF_HUB_OFFLINE
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert (nn.Module.update, dict(vars(mx.metal))) == before
    assert not constants.HF_HUB_OFFLINE


def test_unknown_parameters_are_passed_over_and_missing_ones_named():
    import mlx.core as mx
    import mlx.nn as nn

    from calibzarr.models.compatibility import lenient_updates

    linear = nn.Linear(2, 2)
    weights = {"weight": mx.ones((2, 2)), "bias": mx.ones(2), "position_ids": mx.arange(3)}
    with lenient_updates():
        linear.update(weights)
        assert (linear.weight == 1).all()
        assert "position_ids" not in linear
        with pytest.raises(ValueError, match="lacks 1 parameters of Linear, the first is bias"):
            linear.update({"weight": mx.zeros((2, 2))})
    assert (linear.weight == 1).all()
    with pytest.raises(ValueError, match="position_ids"):
        linear.update(weights)  # outside the context, MLX's own strictness
