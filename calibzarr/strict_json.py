"""JSON as its standard has it: what is infinite or NaN is null, which every reader understands."""

import json
import math
from typing import Any


def finite(content: Any) -> Any:
    """Lists and objects with None in the place of every float that is infinite or NaN.

    >>> finite({"psnr_db": [30.5, float("inf")]})
    {'psnr_db': [30.5, None]}
    """
    if isinstance(content, dict):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def dumps(content: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """A text that any JSON reader reads; see :func:`finite`.

    Args:
        content: JSON types only.
        indent: spaces for each level; everything in one line if None.
        ensure_ascii: whether other characters are escaped.
    """
    return json.dumps(finite(content), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
