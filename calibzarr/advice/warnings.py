"""What is to be said to everyone who uses a recommendation."""

from pathlib import Path

import numpy as np
import xarray as xr

from calibzarr.advice.methods.base import method_of
from calibzarr.advice.options import Options
from calibzarr.errors import Call, Message
from calibzarr.storage import schema


def warnings_of(recommended: xr.Dataset, path: Path) -> list[Message]:
    """What everyone should know who uses a recommendation."""
    options = Options(**recommended.attrs["options"])
    measure, found = Call("sensitivity", (path,)), recommended.attrs.get(schema.SENSITIVITY)
    messages = []
    if (warning := method_of(options).warning) is not None:
        messages.append(Message(warning))
    if found is None:
        messages.append(
            Message(
                "what a bit costs each layer is not measured: the noise of all layers counts "
                "alike, nothing is predicted, and bits by phase are not offered; measure it "
                "with: ",
                measure,
            )
        )
    elif found["statistics"] != recommended.attrs[schema.ACTIVATIONS]["stamp"]:
        again = Call("sensitivity", (path,), {"force": True})
        messages.append(
            Message(
                f"{path} has newer statistics than its sensitivities, whose ranges are used; "
                "measure anew with: ",
                again,
            )
        )
    linear = recommended.isel(layer=np.flatnonzero(recommended.role.values == "input"))
    unfit = np.strings.find(linear.reason.values.astype(str), "no quantizer fits") >= 0
    if unfit.any():
        messages.append(
            Message(
                f"the weights of {unfit.sum()} layers stay as they are: their widths do not divide "
                f"by 32; the first is {linear.layer.values[unfit][0]}"
            )
        )
    return messages
