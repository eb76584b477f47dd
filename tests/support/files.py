"""Files to test with."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "stores" / "example.zarr"


def read_json(file):
    """Strict JSON, without NaN and Infinity."""
    return json.loads(file.read_text(), parse_constant=lambda text: pytest.fail(f"holds {text}"))
