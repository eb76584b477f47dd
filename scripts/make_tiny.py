"""Make the embedded model's weights: random ones from a fixed seed, not trained.

Run ``uv run python scripts/make_tiny.py``; it writes ``calibzarr/models/tiny.safetensors``
and prints the checksum that the registry holds.
"""

import hashlib
from unittest.mock import patch

import mlx.core as mx

from calibzarr.models import tiny


def main() -> None:
    """Write the weights and print their SHA-256."""
    mx.random.seed(0)
    with patch.object(tiny, "load_weights"):
        pipeline = tiny.TinyPipeline()
    tiny.save_weights(pipeline, tiny.WEIGHTS)
    print(hashlib.sha256(tiny.WEIGHTS.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
