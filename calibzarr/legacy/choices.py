"""What may be chosen of an export or an import; imports nothing, so that commands may."""

from typing import Literal, get_args

Layout = Literal["nchw", "nhwc"]
"""Of the states: channels first, as it was documented; or last, as it was."""

Part = Literal["samples", "latents", "images", "manifest", "activations"]
"""What an export consists of: states, processed final states, pictures, manifest, statistics."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
PARTS: tuple[Part, ...] = get_args(Part)
