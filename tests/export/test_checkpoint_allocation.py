"""Bits and groups for layers of any width, on made-up sensitivities."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from calibzarr.errors import OptionError
from calibzarr.export import checkpoint
from calibzarr.export.checkpoint_allocation import allocation_of
from calibzarr.export.checkpoint_plan import CheckpointPlan
from calibzarr.models.base import Layer
from calibzarr.quantization.prediction import Measured
from calibzarr.quantization.quantizers import QUANTIZERS

WIDTHS = {"wide": 256, "odd": 80, "narrow": 96, "other": 128, "small": 48}
OUTPUTS = 64


@dataclass(frozen=True)
class Widths:
    """A model of linear layers of all widths; of its parameters only the shapes."""

    names: tuple = field(default_factory=lambda: tuple(WIDTHS))

    def layers(self):
        return tuple(
            Layer(name, f"tree.{name}", name, "image", name, "input", WIDTHS[name], name, name)
            for name in self.names
        )

    def parameters(self):
        weights = {f"tree.{name}.weight": ("F16", (OUTPUTS, WIDTHS[name])) for name in self.names}
        return {**weights, "tree.bias": ("F16", (7,))}


def measured(loss):
    """Errors that fall by a factor of 4 with each bit, times ``loss`` of the layer."""
    factor = np.array([2.0**-q.bits for q in QUANTIZERS])
    names = list(WIDTHS)
    products = np.einsum("l,q->lq", [loss[name] for name in names], factor)[:, None, :, None, None]
    fits = np.array([[q.fits(WIDTHS[name]) for q in QUANTIZERS] for name in names])
    return Measured(
        names=np.array(names),
        linear=np.ones(len(names), bool),
        input_group=np.arange(len(names)),
        steps=np.array([0]),
        sigma=np.array([1.0, 0.0]),
        products=np.where(fits[:, None, :, None, None], products, np.nan),
        power=np.ones((1, 1)),
        elements=1,
        amplification=np.ones(1),
        decoder_gain_db=0.0,
        clip_min=np.zeros((len(names), 7)),
        clip_max=np.ones((len(names), 7)),
    )


def plan(loss=None, **options):
    loss = {**dict.fromkeys(WIDTHS, 1.0), **(loss or {})}
    given = {"bits_per_weight": None, "size": None, "groups": (32, 64, 128), "keep": (), **options}
    nothing = dict.fromkeys(("root", "out"))
    rest = {"images": (), "held_out": (), "steps": (), "notes": ()}
    return CheckpointPlan(**nothing, **rest, measured=measured(loss), **given)


def test_widths_that_no_group_divides_stay_and_are_named():
    found = allocation_of(plan(bits_per_weight=5), Widths())
    assert found.unfit == found.kept == ("odd", "small")
    assert found.kept_weights == OUTPUTS * (80 + 48)
    groups = {layer.name: q.group_size for layer, q in found.choice.quantized()}
    assert groups.keys() == {"wide", "narrow", "other"}
    assert groups["narrow"] == 32  # nothing else divides 96
    entry = found.choice.entry()
    assert (entry["tree.odd"], entry["tree.small"]) == (False, False)
    assert entry["tree.narrow"]["group_size"] == 32


def test_a_layer_that_loses_more_gets_more_bits():
    found = allocation_of(plan({"other": 100.0}, bits_per_weight=4.5), Widths())
    bits = {layer.name: q.bits for layer, q in found.choice.quantized()}
    assert bits["other"] > bits["wide"]
    assert found.bits_per_weight <= 4.5


def test_the_interval_is_that_of_the_layers_that_are_left():
    with pytest.raises(OptionError, match=r"from 3 to 9, got 2\.5"):
        allocation_of(plan(bits_per_weight=2.5, keep=("wide", "other")), Widths())
    with pytest.raises(OptionError, match=r"from 2\.25 to 8\.25, got 9"):
        allocation_of(plan(bits_per_weight=9, groups=(128,)), Widths())


@pytest.mark.parametrize("part", [0.0, 0.4, 1.0])
def test_sizes_count_everything_in_the_file(part):
    ends = [allocation_of(plan(bits_per_weight=bits), Widths()).file_size for bits in (2.42, 9)]
    size = ends[0] + part * (ends[1] - ends[0])
    found = allocation_of(plan(size=size), Widths())
    shapes = checkpoint.shapes(Widths().parameters(), found.choice)
    assert found.file_size == checkpoint.file_size(shapes) <= size
    if part == 1:
        assert found.file_size == size
