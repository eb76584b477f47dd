"""Whether advice is true: its bits against uniform ones, and predictions against pictures.

All of it on captions that were not calibrated on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import calibzarr
from benchmarks.judge import Case, Judge, calibrated_judge
from benchmarks.measure import Entry, Figure, Settings, Turn, interleave

_NEVER_BELOW_DB = -0.3


def _judge_of(settings: Settings) -> Judge:
    sizes = settings.choose(((8, 4), 32, 50, 8), ((2, 1), 2, 6, 2))
    return calibrated_judge(*sizes, settings.directory)


def _gains(
    entry: str, targets: Mapping[Case, float], quick: Sequence[Case]
) -> Callable[[Settings], list[Figure]]:
    """The entry that measures gains over uniform bits, dB."""

    def run(settings: Settings) -> list[Figure]:
        judge = _judge_of(settings)
        return [
            _figure_of_gain(entry, judge, case, target)
            for case, target in targets.items()
            if not settings.quick or case in quick
        ]

    return run


def _figure_of_gain(entry: str, judge: Judge, case: Case, target: float) -> Figure:
    gain, error = judge.gain(case)
    uniform = judge.psnr_db(replace(case, way="uniform")).mean()
    note = f"standard error {error:.2f}; uniform bits {uniform:.1f} dB"
    return Figure(entry, f"gain over uniform bits, {case}, dB", [gain], at_least=target, note=note)


_WEIGHTS = {
    Case("budget", weights=of): target
    for of, target in {
        ("tensor", 4): 1.2,
        ("tensor", 5): 2.0,
        ("row", 4): 2.5,
        ("mlx", 3): 3.5,
        ("mlx", 4): 3.0,
        ("mlx", 5): 2.7,
    }.items()
}
_ACTIVATIONS = {
    Case(way, activations=of): target
    for (way, of), target in {
        ("budget", ("tensor", 4)): 5.0,
        ("budget", ("tensor", 5)): 5.0,
        ("phase", ("tensor", 4)): 12.0,
        ("phase", ("tensor", 5)): 11.5,
        ("budget", ("token", 4)): 4.5,
        ("budget", ("token", 5)): 3.5,
        ("phase", ("token", 4)): 11.5,
        ("phase", ("token", 5)): 11.5,
    }.items()
}
_TOGETHER = {
    Case("phase", ("row", weight), ("tensor", activation)): target
    for weight, activation, target in ((4, 8, 2.5), (6, 6, 6.0), (4, 4, 7.5))
}
_ALL = (*_WEIGHTS, *_ACTIVATIONS, *_TOGETHER)
_QUICK = (_ALL[2], _ALL[8], _ALL[-1])


def never_below(settings: Settings) -> list[Figure]:
    """The least gain over uniform bits for means from 3 to 8 bits, its standard error added."""
    judge = _judge_of(settings)
    means = settings.choose((3, 4, 5, 6, 7, 8), (8,))
    figures = []
    for of in ("tensor", "row", "mlx"):
        cases = [Case("budget", weights=(of, b)) for b in means if of != "mlx" or b != 7]
        figures.append(_least_gain(judge, f"weights by {of}", cases))
    for of in ("tensor", "token"):
        for way, words in (("budget", ""), ("phase", ", by phase")):
            cases = [Case(way, activations=(of, bits)) for bits in means]
            figures.append(_least_gain(judge, f"activations by {of}{words}", cases))
    return figures


def _least_gain(judge: Judge, words: str, cases: Sequence[Case]) -> Figure:
    gains = {case: judge.gain(case) for case in cases}
    worst = min(gains, key=lambda case: sum(gains[case]))
    gain, error = gains[worst]
    what = f"least gain and its standard error, {words}, dB"
    note = f"{gain:.2f} with standard error {error:.2f} at {worst}"
    return Figure("never-below", what, [gain + error], at_least=_NEVER_BELOW_DB, note=note)


def prediction(settings: Settings) -> list[Figure]:
    """Predicted output SQNR and picture PSNR against measured, over the table's configurations."""
    judge = _judge_of(settings)
    cases = _QUICK if settings.quick else _ALL
    every = {**dict.fromkeys(cases), **dict.fromkeys(replace(c, way="uniform") for c in cases)}
    predicted = [judge.predicted(case) for case in every]
    return [
        *_figures_of_prediction(
            "output SQNR",
            [each.output_sqnr_db for each in predicted],
            [judge.output_sqnr_db(case) for case in every],
            targets=(1.0, 2.0, 0.97),
        ),
        *_figures_of_prediction(
            "picture PSNR",
            [each.picture_psnr_db for each in predicted],
            [float(judge.psnr_db(case).mean()) for case in every],
            targets=(2.0, None, 0.95),
        ),
    ]


def _figures_of_prediction(
    what: str,
    predicted: Sequence[float],
    actual: Sequence[float],
    targets: tuple[float, float | None, float],
) -> list[Figure]:
    """Root mean square and greatest error, and rank correlation, with a target for each."""
    error = np.subtract(predicted, actual)
    rms, greatest = np.sqrt(np.square(error).mean()), np.abs(error).max()
    ranks = float(spearmanr(predicted, actual).statistic)
    note = f"{len(error)} configurations; mean {error.mean():+.2f} dB"
    named = "prediction", f"{what}, predicted less measured"
    return [
        Figure(*named, [rms], at_most=targets[0], note=f"rms dB; {note}"),
        Figure(*named, [greatest], at_most=targets[1], note=f"greatest, dB; {note}"),
        Figure("prediction", f"{what}, rank correlation", [ranks], at_least=targets[2], note=note),
    ]


def speed(settings: Settings) -> list[Figure]:
    """Time of a quantized build over that of the build that it refers to."""
    judge = _judge_of(settings)
    sizes = {
        "num_images": settings.choose(16, 2),
        "num_steps": judge.measured.num_steps,
        "batch_size": settings.choose(8, 2),
    }
    with settings.scratch() as directory:
        reference = Path(directory) / "reference.zarr"
        calibzarr.build(reference, **sizes)

        def quantized(quantizer: str) -> Callable[[Turn], object]:
            file = Path(directory) / f"{quantizer}.json"
            calibzarr.export_config(
                judge.store,
                file,
                granularity="linear",
                activation_quantizer=quantizer,  # type: ignore[arg-type]
                by_phase=False,
            )
            return lambda turn: calibzarr.build(
                turn.directory / "a.zarr", reference=reference, quantized=file
            )

        ways = {
            "plain": lambda turn: calibzarr.build(turn.directory / "a.zarr", **sizes),
            "tensor": quantized("tensor"),
            "token": quantized("token"),
        }
        seconds = interleave(ways, settings.turns(5), settings)
    note = f"W4A8; {sizes['num_images']} images of {sizes['num_steps']} calls"
    return [
        Figure(
            "speed",
            f"time of a build, inputs quantized by {way} / plain",
            list(seconds[way] / seconds["plain"]),
            at_most=at_most,
            note=note,
        )
        for way, at_most in (("tensor", 1.3), ("token", 2.0))
    ]


def heart(settings: Settings) -> list[Figure]:
    """The heart of the table, small enough for a test: 8 images of 25 calls."""
    judge = calibrated_judge((4, 2), 8, 25, 2, settings.directory)
    cases = (
        Case("budget", weights=("row", 4)),
        Case("budget", activations=("tensor", 5)),
        Case("phase", activations=("tensor", 4)),
    )
    return [_figure_of_gain("heart", judge, case, 1.0) for case in cases]


ENTRIES: Mapping[str, Entry] = {
    "weights": _gains("weights", _WEIGHTS, _QUICK),
    "activations": _gains("activations", _ACTIVATIONS, _QUICK),
    "together": _gains("together", _TOGETHER, _QUICK),
    "never-below": never_below,
    "prediction": prediction,
    "speed": speed,
    "heart": heart,
}
