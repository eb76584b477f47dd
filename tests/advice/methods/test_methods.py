"""Methods on a small model that was made up, whose sensitivities are arrays."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibzarr.advice.methods.base import Candidates, Evidence, choose
from calibzarr.advice.options import Options
from calibzarr.advice.predicted import described, mean_bits
from calibzarr.errors import OptionError, StoreError
from calibzarr.quantization import costs
from calibzarr.quantization.quantizers import QUANTIZERS
from calibzarr.statistics.steps import phases_of_calls
from tests.support.sensitivities import NUM_STEPS, made_up

WIDTH = np.array([128, 64, 64, 128, 128])
WEIGHTS = np.array([128 * 20, 64 * 10, 64 * 30, 128 * 5, 0])
TOKENS = np.array([1, 8, 8, 8, 8])


def evidence(activation="tensor", weight="row", *, known=True, exception=0):
    """Of four linear layers and a block; the second and the third read the same."""
    measured = made_up()
    rows = np.array([1, 1, 0, 1, 0]) * WIDTH * TOKENS
    if exception:
        rows[0] = 0
    calls = [len(calls) for calls in phases_of_calls(NUM_STEPS).values()]

    def candidates(kind, family, size, error):
        chosen = costs.options(kind, family)
        columns = [QUANTIZERS.index(quantizer) for quantizer in chosen]
        cost = costs.exact_bits(chosen, WIDTH)
        made = np.where(np.isfinite(cost)[:, None], np.nan_to_num(error[..., columns]), np.nan)
        return Candidates(chosen, cost, size, costs.non_increasing(made))

    energy = costs.error_energy(measured)[:, None]
    amplified = costs.amplified_error_energy(measured)
    return Evidence(
        names=measured.names,
        kinds=np.array(["attn"] * 5),
        linear=measured.linear,
        overall=None,
        activations=candidates("activation", activation, rows[:, None], energy),
        by_phase=candidates("activation", activation, rows[:, None] * calls, amplified)
        if known
        else None,
        weights=candidates("weight", weight, WEIGHTS[:, None], energy),
        leader=np.array([0, 1, 1, 3, 4]),
        exception=np.array([exception, 0, 0, 0, 0]),
        kept=np.zeros(5, bool),
        phases=("early", "mid", "late"),
        measured=measured if known else None,
    )


def error_of(candidates, option):
    rows, phases = np.nonzero(candidates.size)
    return candidates.error[rows, phases, option[rows, phases]].sum()


@settings(deadline=None, max_examples=25)
@given(st.floats(2.3, 8.0), st.floats(2.0, 8.0), st.sampled_from(["tensor", "token"]))
def test_budget_keeps_both_means_and_beats_all_other_static_bits(weight, activation, scheme):
    found = evidence(scheme)
    options = Options(weight_bits=weight, activation_bits=activation)
    chosen, reasons = choose(found, options)
    weights, inputs = mean_bits(found, chosen)
    assert weights <= weight * (1 + 1e-8)
    assert inputs <= activation * (1 + 1e-8)
    assert chosen.activation[1] == chosen.activation[2]
    sizes = found.activations.size[[0, 1, 3], 0]
    error = found.activations.error[[0, 1, 3], 0]
    assert (sizes * chosen.activation[[0, 1, 3]]).sum() <= activation * sizes.sum() * (1 + 1e-8)
    best = min(
        sum(error[row, bits - 2] for row, bits in enumerate(all_bits))
        for all_bits in product(range(2, 9), repeat=3)
        if sum(sizes * all_bits) <= activation * sizes.sum()
    )
    made = sum(error[row, bits - 2] for row, bits in enumerate(chosen.activation[[0, 1, 3]]))
    assert made <= best * (1 + 1e-5)
    assert len(reasons) == 5


@pytest.mark.parametrize("family", ["tensor", "row", "mlx"])
@pytest.mark.parametrize("bits", [3, 4, 5])
def test_budget_is_never_worse_than_uniform_bits_of_equal_cost(family, bits):
    found = evidence(weight=family)
    uniform, _ = choose(
        found,
        Options(method="uniform", weight_bits=bits, activation_bits=bits, weight_quantizer=family),
    )
    of_weights, of_inputs = mean_bits(found, uniform)
    assert of_inputs == bits
    chosen, _ = choose(
        found, Options(weight_bits=of_weights, activation_bits=bits, weight_quantizer=family)
    )
    before, after = (error_of(found.weights, each.weight[:, None]) for each in (uniform, chosen))
    assert after <= before * (1 + 1e-9)
    gains = described(found, uniform, WEIGHTS)
    assert gains["gain_db"] == pytest.approx(0, abs=1e-9)
    assert gains["picture_gain_db"] == pytest.approx(0, abs=1e-9)
    assert described(found, chosen, WEIGHTS)["weight_bits"] <= of_weights * (1 + 1e-8)


def test_uniform_bits_of_mlx_are_in_groups_of_64():
    found = evidence(weight="mlx")
    chosen, _ = choose(found, Options(method="uniform", weight_bits=4, weight_quantizer="mlx"))
    schemes = [found.weights.quantizers[option].scheme for option in chosen.weight[:4]]
    assert schemes == ["mlx-64"] * 4
    assert chosen.weight[4] == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "uniform", "weight_bits": 4.5}, "weight_bits of the method uniform must be"),
        (
            {"method": "uniform", "weight_bits": 7, "weight_quantizer": "mlx"},
            r"one of 2, 3, 4, 5, 6, 8, got 7",
        ),
        ({"method": "uniform", "activation_bits": 9}, r"one of 2, 3, 4, 5, 6, 7, 8, got 9"),
        ({"weight_bits": 1.5}, r"weight_bits must be from 2\.\d+ to 8\.\d+.*got 1\.5"),
        ({"activation_bits": 8.5}, r"activation_bits must be from 2 to 8, .*got 8\.5"),
        ({"output_db": 20.0}, "output_db is nothing to the method budget"),
        ({"method": "range", "weight_bits": 4.0}, "weight_bits is nothing to the method range"),
        ({"method": "target"}, "needs output_db"),
        (
            {"method": "target", "output_db": 9.0, "weight_bits": 4, "activation_bits": 4},
            "leave one out",
        ),
        ({"method": "target", "output_db": 200.0}, r"200 dB cannot be reached; the best is \d"),
    ],
)
def test_what_cannot_be_had_is_refused(options, message):
    asked = Options(**options)
    with pytest.raises(OptionError, match=message):
        choose(evidence(weight=asked.weight_quantizer), asked)


@pytest.mark.parametrize(
    "fixed", [{}, {"weight_bits": 6.0}, {"activation_bits": 7.0}], ids=["both", "w", "a"]
)
def test_target_is_met_with_little_to_spare(fixed):
    found = evidence()
    best = choose(found, Options(weight_bits=6.0, activation_bits=7.0))[0]
    target = found.predicted(best).output_sqnr_db - 4
    chosen, _ = choose(found, Options(method="target", output_db=target, **fixed))
    assert chosen.by_phase is None
    assert target <= found.predicted(chosen).output_sqnr_db <= target + 3
    means = dict(zip(("weight_bits", "activation_bits"), mean_bits(found, chosen), strict=True))
    for name, mean in fixed.items():
        assert means[name] <= mean * (1 + 1e-8)


def test_target_needs_sensitivities():
    with pytest.raises(StoreError, match="needs sensitivities"):
        choose(evidence(known=False), Options(method="target", output_db=9.0))


def test_exceptions_hold_for_every_method():
    for method in ("budget", "uniform"):
        for bits in (8, 16):
            found = evidence(exception=bits)
            chosen, _ = choose(found, Options(method=method, activation_bits=4))
            assert chosen.activation[0] == bits
            assert mean_bits(found, chosen)[1] <= 4
            if chosen.by_phase is not None:
                assert (chosen.by_phase[0] == bits).all()


def test_reasons_quote_shares_of_the_error():
    found = evidence()
    chosen, reasons = choose(found, Options(activation_bits=5, by_phase=False))
    candidates, option = found.activations, np.maximum(chosen.activation - 2, 0)
    total = sum(candidates.error[row, 0, option[row]] for row in (0, 1, 3))
    for row in range(4):
        leader = found.leader[row]
        share = candidates.error[leader, 0, option[row]] / total
        bits = chosen.activation[row]
        assert reasons[row].startswith(f"activations: {bits} bits make {share:.2%} of the output")
        at = re.search(r"weights: (\d) bits make", reasons[row])
        assert int(at[1]) == found.weights.quantizers[chosen.weight[row]].bits
    assert reasons[4] == ""
