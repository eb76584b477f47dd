"""The published transformers in NumPy, float64, on weights of the original names.

Stable Diffusion 3.5: Esser et al. 2024 (arXiv 2403.03206), with q and k normalized. FLUX.1: as
Black Forest Labs describe and name it. One difference: GELU is exact here, as in DiffusionKit,
where both have its approximation by tanh.
"""

import numpy as np
from scipy.special import erf

_EPSILON = 1e-6


class _Weights:
    """Weights of one file, and the layers that they are of."""

    def __init__(self, weights, num_heads):
        self._weights = weights
        self.num_heads = num_heads

    def __getitem__(self, name):
        return self._weights[name].astype(np.float64)

    def count(self, stem):
        numbers = {name.split(".")[1] for name in self._weights if name.startswith(f"{stem}.")}
        return len(numbers)

    def linear(self, name, x):
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def modulation(self, name, vector, count):
        return np.split(self.linear(name, _silu(vector))[:, None], count, axis=-1)

    def heads(self, x):
        """Shape (row, head, token, feature)."""
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(0, 2, 1, 3)


def _silu(x):
    return x / (1 + np.exp(-x))


def _gelu(x):
    return x / 2 * (1 + erf(x / np.sqrt(2)))


def _layer_norm(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(x.var(axis=-1, keepdims=True) + _EPSILON)


def _rms_norm(x, scale):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + _EPSILON) * scale


def _modulated(x, shift, scale):
    return (1 + scale) * _layer_norm(x) + shift


def _attention(q, k, v):
    """Shape (row, token, feature) of arrays by head."""
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    values = weights / weights.sum(axis=-1, keepdims=True) @ v
    return values.transpose(0, 2, 1, 3).reshape(len(v), v.shape[2], -1)


def _sinusoids(t, width=256, longest=10000.0):
    angles = t[:, None] * np.exp(-np.log(longest) * np.arange(width // 2) / (width // 2))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def sd3(weights, num_heads, latents, tokens, pooled, timestep):
    """Velocity, shape (row, channel, height, width), of Stable Diffusion 3.5.

    Args:
        weights: by their original names, without a prefix.
        num_heads: of the attention.
        latents: of the velocity's shape.
        tokens: text, shape (row, token, feature).
        pooled: text, shape (row, feature).
        timestep: shape (row,), from 0 to 1000.
    """
    w = _Weights(weights, num_heads)
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // 2, 2, width // 2, 2)
    patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * 4)
    kernel = w["x_embedder.proj.weight"]
    image = patches @ kernel.reshape(len(kernel), -1).T + w["x_embedder.proj.bias"]
    extent = int(np.sqrt(w["pos_embed"].shape[1]))
    grid = w["pos_embed"].reshape(extent, extent, -1)
    top, left = (extent - height // 2) // 2, (extent - width // 2) // 2
    image += grid[top : top + height // 2, left : left + width // 2].reshape(1, -1, len(kernel))

    def embedder(name, x):
        return w.linear(f"{name}.mlp.2", _silu(w.linear(f"{name}.mlp.0", x)))

    vector = embedder("t_embedder", _sinusoids(timestep)) + embedder("y_embedder", pooled)
    streams = {"context": w.linear("context_embedder", tokens), "x": image}
    count = w.count("joint_blocks")
    for block in range(count):
        parts, modulations = [], {}
        for stream, x in streams.items():
            name = f"joint_blocks.{block}.{stream}_block"
            ends_here = stream == "context" and block == count - 1
            modulation = w.modulation(f"{name}.adaLN_modulation.1", vector, 2 if ends_here else 6)
            modulations[stream] = modulation
            fused = w.linear(f"{name}.attn.qkv", _modulated(x, *modulation[:2]))
            q, k, v = (w.heads(part) for part in np.split(fused, 3, axis=-1))
            q = _rms_norm(q, w[f"{name}.attn.ln_q.weight"])
            parts.append((q, _rms_norm(k, w[f"{name}.attn.ln_k.weight"]), v))
        attended = _attention(*(np.concatenate(p, axis=2) for p in zip(*parts, strict=True)))
        split = np.split(attended, [tokens.shape[1]], axis=1)
        for (stream, x), values in zip(list(streams.items()), split, strict=True):
            name = f"joint_blocks.{block}.{stream}_block"
            if len(modulations[stream]) == 6:
                *_, gate, shift, scale, gate_of_mlp = modulations[stream]
                x = x + gate * w.linear(f"{name}.attn.proj", values)
                hidden = _gelu(w.linear(f"{name}.mlp.fc1", _modulated(x, shift, scale)))
                streams[stream] = x + gate_of_mlp * w.linear(f"{name}.mlp.fc2", hidden)
    shift, scale = w.modulation("final_layer.adaLN_modulation.1", vector, 2)
    output = w.linear("final_layer.linear", _modulated(streams["x"], shift, scale))
    output = output.reshape(rows, height // 2, width // 2, 2, 2, channels)
    return output.transpose(0, 5, 1, 3, 2, 4).reshape(latents.shape)


def _rotations(axes, positions, theta=10000.0):
    """Angles of the rotary embedding, shape (token, feature / 2), of positions on three axes."""
    angles = [
        positions[:, axis, None] / theta ** (np.arange(0, width, 2) / width)
        for axis, width in enumerate(axes)
    ]
    return np.concatenate(angles, axis=1)


def _rotated(x, angles):
    even, odd = x[..., ::2], x[..., 1::2]
    cosine, sine = np.cos(angles), np.sin(angles)
    pairs = [even * cosine - odd * sine, even * sine + odd * cosine]
    return np.stack(pairs, axis=-1).reshape(x.shape)


def flux(weights, num_heads, axes, latents, tokens, pooled, timestep, guidance=None):
    """Velocity, shape (row, channel, height, width), of FLUX.1.

    Args:
        weights: by their original names.
        num_heads: of the attention.
        axes: widths of the rotary embedding's axes.
        latents: of the velocity's shape.
        tokens: text, shape (row, token, feature).
        pooled: text, shape (row, feature).
        timestep: shape (row,), from 0 to 1.
        guidance: shape (row,), of a model that is told of one.
    """
    w = _Weights(weights, num_heads)
    rows, channels, height, width = latents.shape
    packed = latents.reshape(rows, channels, height // 2, 2, width // 2, 2)
    packed = packed.transpose(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * 4)

    def embedder(name, x):
        return w.linear(f"{name}.out_layer", _silu(w.linear(f"{name}.in_layer", x)))

    vector = embedder("time_in", _sinusoids(1000 * timestep)) + embedder("vector_in", pooled)
    if guidance is not None:
        vector = vector + embedder("guidance_in", _sinusoids(1000 * guidance))
    image, text = w.linear("img_in", packed), w.linear("txt_in", tokens)
    lines, columns = np.meshgrid(np.arange(height // 2), np.arange(width // 2), indexing="ij")
    of_image = np.stack([0 * lines, lines, columns], axis=-1).reshape(-1, 3)
    angles = _rotations(axes, np.concatenate([np.zeros((tokens.shape[1], 3)), of_image]))

    def projections(fused, norm):
        q, k, v = (w.heads(part) for part in np.split(fused, 3, axis=-1))
        q = _rms_norm(q, w[f"{norm}.query_norm.scale"])
        return q, _rms_norm(k, w[f"{norm}.key_norm.scale"]), v

    def attention(q, k, v):
        return _attention(_rotated(q, angles), _rotated(k, angles), v)

    for block in range(w.count("double_blocks")):
        streams, parts = {"txt": text, "img": image}, []
        modulations = {
            stream: w.modulation(f"double_blocks.{block}.{stream}_mod.lin", vector, 6)
            for stream in streams
        }
        for stream, x in streams.items():
            name = f"double_blocks.{block}.{stream}_attn"
            fused = w.linear(f"{name}.qkv", _modulated(x, *modulations[stream][:2]))
            parts.append(projections(fused, f"{name}.norm"))
        attended = attention(*(np.concatenate(p, axis=2) for p in zip(*parts, strict=True)))
        split = np.split(attended, [tokens.shape[1]], axis=1)
        for (stream, x), values in zip(list(streams.items()), split, strict=True):
            name = f"double_blocks.{block}.{stream}"
            *_, gate, shift, scale, gate_of_mlp = modulations[stream]
            x = x + gate * w.linear(f"{name}_attn.proj", values)
            hidden = _gelu(w.linear(f"{name}_mlp.0", _modulated(x, shift, scale)))
            streams[stream] = x + gate_of_mlp * w.linear(f"{name}_mlp.2", hidden)
        text, image = streams.values()
    x = np.concatenate([text, image], axis=1)
    for block in range(w.count("single_blocks")):
        name = f"single_blocks.{block}"
        shift, scale, gate = w.modulation(f"{name}.modulation.lin", vector, 3)
        fused = w.linear(f"{name}.linear1", _modulated(x, shift, scale))
        qkv, hidden = np.split(fused, [3 * x.shape[-1]], axis=-1)
        attended = attention(*projections(qkv, f"{name}.norm"))
        both = np.concatenate([attended, _gelu(hidden)], axis=-1)
        x = x + gate * w.linear(f"{name}.linear2", both)
    shift, scale = w.modulation("final_layer.adaLN_modulation.1", vector, 2)
    output = w.linear("final_layer.linear", _modulated(x[:, tokens.shape[1] :], shift, scale))
    output = output.reshape(rows, height // 2, width // 2, channels, 2, 2)
    return output.transpose(0, 3, 1, 4, 2, 5).reshape(latents.shape)
