"""Mathematics of quantization, on arrays."""
