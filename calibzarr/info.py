"""What a store holds."""

from pathlib import Path
from typing import Any

from calibzarr import store


def describe(path: str | Path) -> dict[str, Any]:
    """Describe a store, in JSON types.

    Returns:
        ``path``; ``manifest`` (the root attributes); ``num_images`` and ``n_completed`` (from
        the keys, at this moment); ``bytes`` of each variable's files; ``files``, their number;
        ``collected`` (what statistics cover, None where there are none).

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        ValueError: if it is no calibzarr store, or of a format that this version cannot read.
    """
    path = Path(path)
    manifest = store.manifest(path)
    prompts, _ = store.stored_prompts(path)
    return {
        "path": str(path),
        "manifest": manifest,
        "num_images": len(prompts),
        "n_completed": int(store.completed(path, len(prompts)).sum()),
        "bytes": store.bytes_on_disk(path),
        "files": sum(file.is_file() for file in path.rglob("*")),
        "collected": manifest.get("activations"),
    }
