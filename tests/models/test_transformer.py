import mlx.nn as nn
import pytest

from calibzarr.models.compatibility import import_diffusionkit
from calibzarr.models.transformer import observable_layers
from tests.support import checkpoints

kit = import_diffusionkit()


@pytest.fixture(scope="module", params=list(checkpoints.MMDIT_CONFIGS))
def mmdit(request):
    return checkpoints.modules(request.param)["mmdit"]


def test_every_linear_layer_and_block_has_a_name_of_its_own(mmdit):
    layers = observable_layers(mmdit)
    modules = dict(mmdit.named_modules())
    assert len({layer.name for layer in layers}) == len(layers)
    linear = {path for path, module in modules.items() if isinstance(module, nn.Linear)}
    assert {layer.module for layer in layers if layer.role == "input"} == linear
    blocks = (kit.mmdit.MultiModalTransformerBlock, kit.mmdit.UnifiedTransformerBlock)
    for layer in layers:
        module = modules[layer.module]
        if layer.role == "output":
            assert isinstance(module, blocks)
        else:
            assert layer.features == module.weight.shape[1]


@pytest.mark.parametrize("mmdit", ["flux-schnell"], indirect=True)
def test_layers_of_a_unified_block(mmdit):
    layers = observable_layers(mmdit)
    names = [layer.name for layer in layers if layer.block == "unified_block_0"]
    linears = ["adaLN_modulation", *(f"attn.{kind}_proj" for kind in "koqv"), "mlp.fc1", "mlp.fc2"]
    assert names == [*(f"unified_block_0.{linear}" for linear in linears), "unified_block_0"]
    assert "mm_block_1.text" in {layer.name for layer in layers}


def test_projections_get_equal_bits_and_a_parallel_mlp_shares_their_input(mmdit):
    by_name = {layer.name: layer for layer in observable_layers(mmdit)}
    for name, layer in by_name.items():
        stem, _, kind = name.rpartition(".")
        projected = kind in ("k_proj", "q_proj", "v_proj")
        parallel = name.startswith("unified_block") and name.endswith("mlp.fc1")
        first = f"{stem}.k_proj" if projected else name
        assert layer.tied_group == first
        if parallel:
            assert layer.input_group == f"{layer.block}.attn.k_proj"
        elif name.endswith("text.adaLN_modulation"):
            assert layer.input_group == f"{layer.block}.image.adaLN_modulation"
        else:
            assert layer.input_group == first
        assert by_name[layer.input_group].features == layer.features
