import pytest

from calibzarr.models import registry, tiny


def test_damaged_embedded_weights_are_told(tmp_path, monkeypatch):
    damaged = bytearray(tiny.WEIGHTS.read_bytes())
    damaged[-1] ^= 1
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(damaged)
    monkeypatch.setattr(tiny, "WEIGHTS", path)
    with pytest.raises(ValueError, match="is damaged: its SHA-256"):
        registry.load("tiny")
