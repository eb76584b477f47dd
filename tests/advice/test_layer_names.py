import pytest
import xarray as xr

from calibzarr.advice.layer_names import in_words
from tests.support.files import ROOT


@pytest.fixture(scope="module")
def layers():
    names = ["layer", "kind", "stream", "block"]
    return xr.open_zarr(ROOT / "stores" / "example.zarr", chunks=None)[names].load()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ""),
        (["context_embedder"], "context_embedder"),
        (["mm_block_1.image.mlp.fc2"], "mm_block_1.image.mlp.fc2"),
        (
            [f"mm_block_{block}.image.mlp.fc2" for block in range(4)],
            "mlp.fc2 of the image stream in all blocks",
        ),
        (
            [f"mm_block_{block}.image.attn.{x}_proj" for block in range(4) for x in "qkv"],
            "q, k, v of the image stream in all blocks",
        ),
        (
            [f"mm_block_{b}.{s}.attn.q_proj" for b in (0, 2) for s in ("image", "text")],
            "q of the image stream in 2 of 4 blocks; q of the text stream in 2 of 4 blocks",
        ),
        (
            [f"mm_block_{block}.image.attn.q_proj" for block in range(4)]
            + [f"mm_block_{block}.image.mlp.fc1" for block in range(3)],
            "mlp.fc1 of the image stream in 3 of 4 blocks; q of the image stream in all blocks",
        ),
    ],
)
def test_many_layers_are_counted_by_kind_and_stream(layers, names, expected):
    assert in_words(layers, names) == expected
