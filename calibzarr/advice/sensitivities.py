"""What measured sensitivities come to: the layers, kinds and phases where a bit costs most."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.errors import Call, Message
from calibzarr.quantization.sensitivity import Sensitivity, counted_at_nearest, over_steps
from calibzarr.statistics.steps import phases_of_calls
from calibzarr.storage import reading, schema
from calibzarr.storage.manifest import Root

QUANTIZERS = {"activations": "activation-tensor-4", "weights": "weight-row-4"}
"""At which layers are compared: sensitivities at other numbers of bits rank alike."""

CLEAR_DB = 1.0  # standard error from which more samples are advised
_NAMED = 6


def of_store(root: Root) -> xr.Dataset | None:
    """Errors of the guided output that quantizing each layer alone makes, over a whole sampling.

    A call counts with the width of its step in sigma, and as the nearest measured call of its
    phase; layers that share their input count once.

    Args:
        root: of the store.

    Returns:
        By (layer, phase): ``activations`` and ``weights``, error energies at the numbers of bits
        of ``QUANTIZERS``, in latent units squared; 0 in a phase without a measured call. By layer:
        ``activations_error`` and ``weights_error``, their standard errors, dB. None if nothing was
        measured.
    """
    if schema.SENSITIVITY not in root.attributes:
        return None
    dataset = reading.open_store(root)
    coordinates = reading.open_statistics(root)[["layer", "kind", "input_group"]].coords
    widths = counted_at_nearest(
        -np.diff(dataset.sigma.values.astype(np.float64)), dataset.sensitivity_step.values
    )
    names = list(phases_of_calls(int(root.attributes["num_steps"])))
    power = dataset.output_power.mean("sensitivity_image").values
    counted = {
        "activations": coordinates["input_group"].values == coordinates["layer"].values,
        "weights": np.ones(dataset.sizes["layer"], bool),
    }
    variables: dict[str, tuple[tuple[str, ...] | str, np.ndarray]] = {}
    for what, quantizer in QUANTIZERS.items():
        column = dataset.quantizer.values.tolist().index(quantizer)
        name = f"{quantizer.partition('-')[0]}_sensitivity"
        found = Sensitivity(
            *(
                np.nan_to_num(dataset[variable].values[..., [column]])
                for variable in (name, f"{name}_error")
            )
        )
        by_phase = np.einsum("ls,ps->lp", found.value[..., 0], widths * power)
        variables[what] = (("layer", "phase"), by_phase * counted[what][:, None])
        total = over_steps(found, widths.sum(axis=0) * power)
        variables[f"{what}_error"] = ("layer", total.error_db[:, 0])
    about = root.attributes[schema.SENSITIVITY]
    return xr.Dataset(variables, {**coordinates, "phase": names}, about)


def describe(found: xr.Dataset, layers: np.ndarray | None = None) -> dict[str, Any]:
    """What :func:`of_store` gives comes to, in JSON types: shares of the error, the greatest first.

    Args:
        found: of :func:`of_store`.
        layers: names of those to tell of; all if None. Shares are of the whole error.

    Returns:
        For ``activations`` and for ``weights``: ``quantizer``, and shares of ``layers``, ``kinds``
        and ``phases``. ``images``, ``probes`` and ``steps``; ``unclear``: layers whose standard
        error is over 1 dB, with it.
    """
    description: dict[str, Any] = {
        "images": int(found.attrs["num_images"]),
        "probes": int(found.attrs["num_probes"]),
        "steps": list(found.attrs["steps"]),
    }
    shown = found if layers is None else found.sel(layer=layers)
    errors = np.maximum(*(shown[f"{what}_error"].values for what in QUANTIZERS))
    unclear = {
        str(shown.layer.values[row]): round(float(errors[row]), 2)
        for row in np.argsort(-errors, kind="stable")
        if errors[row] > CLEAR_DB
    }
    for what, quantizer in QUANTIZERS.items():
        energies = shown[what] / found[what].sum()
        by_kind = energies.sum("phase").groupby("kind").sum()
        description[what] = {
            "quantizer": quantizer,
            "layers": _shares(shown.layer.values, energies.sum("phase").values),
            "kinds": _shares(by_kind.kind.values, by_kind.values),
            "phases": dict(
                zip(found.phase.values.tolist(), energies.sum("layer").values.tolist(), strict=True)
            ),
        }
    return {**description, "unclear": unclear}


def _shares(names: np.ndarray, shares: np.ndarray) -> dict[str, float]:
    order = np.argsort(-shares, kind="stable")
    return {str(names[row]): float(shares[row]) for row in order if shares[row] > 0}


def sentences(root: Root, description: Mapping[str, Any] | None) -> list[Message]:
    """What :func:`describe` found, for people; or how to measure it.

    Args:
        root: of the store.
        description: of :func:`describe`; None if nothing was measured.
    """
    if description is None:
        measure = Call("sensitivity", (root.path,))
        return [Message("what a bit costs each layer is not measured; measure it with: ", measure)]
    lines = []
    for what, quantizer in QUANTIZERS.items():
        shares_by = description[what]
        for title, shares in (
            (
                f"the output's error with {what} at 4 bits ({quantizer}) is made by",
                shares_by["layers"],
            ),
            ("  by kind", shares_by["kinds"]),
            ("  by phase", shares_by["phases"]),
        ):
            named = ", ".join(f"{name} {share:.0%}" for name, share in [*shares.items()][:_NAMED])
            rest = [*shares.values()][_NAMED:]
            named += f", {len(rest)} others {sum(rest):.0%}" if rest else ""
            lines.append(Message(f"{title}: {named}"))
    if description["unclear"]:
        layer, error = next(iter(description["unclear"].items()))
        more = {"images": description["images"], "probes": 2 * description["probes"]}
        lines.append(
            Message(
                f"the standard error of {len(description['unclear'])} layers is over "
                f"{CLEAR_DB:g} dB ({layer}: {error:.1f} dB); for less: ",
                Call("sensitivity", (root.path,), more),
            )
        )
    return lines
