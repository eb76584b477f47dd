"""The tokens of prompts: whether they are those that made a store, and what is cut off."""

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.errors import StoreError
from calibzarr.models.base import Model, TextTokenizer, TokenizingModel

SHA256 = "tokens_sha256"  # in a manifest
_MOST_NAMED = 20  # prompts that are cut


def described(model: Model, prompts: Sequence[str]) -> dict[str, str]:
    """What a manifest says of the tokens of a store's prompts; nothing where a model has none.

    It is the SHA-256, in hexadecimal, of the ids of all text encoders, in the order of their
    names, for all prompts: each time the number of ids, and they, as little-endian int32.
    """
    if not isinstance(model, TokenizingModel):
        return {}
    digest = hashlib.sha256()
    for _, tokenizer in sorted(model.tokenizers().items()):
        for prompt in prompts:
            ids = tokenizer.tokenize(prompt)
            digest.update(np.array([len(ids), *ids], dtype="<i4").tobytes())
    return {SHA256: digest.hexdigest()}


def check(path: Path, attributes: Mapping[str, Any], prompts: Sequence[str], model: Model) -> None:
    """Check that a model makes the tokens of prompts that a store was built with.

    A store that does not say had those of the tokenizers' former kind.

    Args:
        path: directory of the store.
        attributes: its manifest.
        prompts: its prompts.
        model: with its tokenizers.

    Raises:
        StoreError: if they are others.
    """
    if not isinstance(model, TokenizingModel):
        return
    stored = attributes.get(SHA256)
    if stored is None:
        prompt = _first_other(model.tokenizers(), prompts)
        which = None if prompt is None else f"such as {prompt!r}"
    else:
        which = None if described(model, prompts) == {SHA256: stored} else f"by {SHA256} {stored}"
    if which is not None:
        before = (attributes.get("libraries") or {}).get("transformers")
        version = f" of transformers {before}" if before else ""
        raise StoreError(
            f"{path} has prompts, {which}, whose tokens were others by the tokenizers{version} "
            "that it was built with; nothing can be added to it with these: build another store"
        )


def _first_other(tokenizers: Mapping[str, TextTokenizer], prompts: Sequence[str]) -> str | None:
    """The first prompt of which a tokenizer makes other tokens than its former kind did."""
    for prompt in prompts:
        for tokenizer in tokenizers.values():
            try:
                if tokenizer.former(prompt) != tokenizer.tokenize(prompt):
                    return prompt
            except KeyError:  # the former kind failed: no image was made of it
                break
    return None


def notes(model: Model, prompts: Mapping[int, str]) -> list[str]:
    """Lines on prompts that a text encoder does not read to the end, and what it does not read.

    Args:
        model: with its tokenizers.
        prompts: by the image; equal ones are named once.
    """
    first: dict[str, int] = {}
    for image, prompt in prompts.items():
        first.setdefault(prompt, image)
    ends = {image: lost(model, prompt) for prompt, image in first.items()}
    cut = {image: by_encoders for image, by_encoders in ends.items() if by_encoders}
    lines = [
        f"the prompt of image {image} is cut for {encoders}, which lose {end!r}"
        for image, by_encoders in islice(cut.items(), _MOST_NAMED)
        for encoders, end in by_encoders.items()
    ]
    others = len(cut) - _MOST_NAMED
    return [*lines, f"{others} other prompts are cut as well"] if others > 0 else lines


def lost(model: Model, prompt: str) -> dict[str, str]:
    """The end of a prompt that text encoders do not read, by their names, with commas between."""
    if not isinstance(model, TokenizingModel):
        return {}
    encoders: dict[str, list[str]] = {}
    for name, tokenizer in model.tokenizers().items():
        encoders.setdefault(_lost(tokenizer, prompt), []).append(name)
    return {", ".join(names): end for end, names in encoders.items() if end}


def _lost(tokenizer: TextTokenizer, prompt: str) -> str:
    """What follows the shortest beginning of a prompt that has the prompt's own tokens."""
    ids = tokenizer.tokenize(prompt)
    if len(ids) < tokenizer.max_length:
        return ""
    lengths = range(len(prompt))
    kept = bisect_left(lengths, x=True, key=lambda n: tokenizer.tokenize(prompt[:n]) == ids)
    return prompt[kept:].strip()
