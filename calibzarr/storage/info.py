"""What a store holds."""

from pathlib import Path
from typing import Any

from calibzarr.storage import schema, store
from calibzarr.storage.manifest import read_root


def describe(path: str | Path) -> dict[str, Any]:
    """Describe a store, in JSON types.

    Returns:
        ``path``; ``manifest`` (the root attributes); ``num_images`` and ``n_completed`` (from
        the keys, at this moment); ``bytes`` of each variable's files; ``files``, their number;
        ``collected`` (what statistics cover, None where there are none).

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        StoreError: if it is no calibzarr store, or of a format that this version cannot read.
    """
    path = Path(path)
    root = read_root(path)
    prompts, _ = store.stored_prompts(root)
    return {
        "path": str(path),
        "manifest": root.attributes,
        "num_images": len(prompts),
        "n_completed": int(store.completed(path, len(prompts)).sum()),
        "bytes": bytes_on_disk(path),
        "files": sum(file.is_file() for file in path.rglob("*")),
        "collected": root.attributes.get(schema.ACTIVATIONS),
    }


def bytes_on_disk(path: Path) -> dict[str, int]:
    """Bytes of each variable's files, and of the metadata under the name ``metadata``."""
    sizes: dict[str, int] = {"metadata": 0}
    for file in path.rglob("*"):
        if file.is_file():
            parts = file.relative_to(path).parts
            name = "metadata" if parts[-1] == "zarr.json" else parts[0]
            sizes[name] = sizes.get(name, 0) + file.stat().st_size
    return sizes
