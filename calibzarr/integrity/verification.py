"""Whether a store is whole and true: its metadata, every image, statistics and sensitivities."""

from pathlib import Path

import numpy as np

from calibzarr.errors import Option, OptionError, StoreError, at_least
from calibzarr.integrity import sensitivity_checks, statistics_checks
from calibzarr.integrity.coordinate_checks import check_coordinates
from calibzarr.integrity.findings import CHECKS, Report, Tally
from calibzarr.integrity.image_checks import check_images
from calibzarr.integrity.metadata_checks import checked_root, has, metadata_errors
from calibzarr.integrity.opened import Opened, open_for_checks
from calibzarr.progress import progress_console
from calibzarr.storage import schema, store

_ADDITIONS = (
    (schema.COLLECTION, statistics_checks.check),
    (schema.MEASUREMENT, sensitivity_checks.check),
)


def verify(
    path: str | Path,
    *,
    model: bool = False,
    sample: int = 4,
    seed: int = 0,
    tolerance: float = 2e-5,
    progress: bool | None = None,
) -> Report:
    """Check a store's metadata, images, statistics, sensitivities; and some images with its model.

    Args:
        path: directory of the store.
        model: whether to make some images again with the model, and compare.
        sample: how many of them, chosen at random.
        seed: of that choice.
        tolerance: greatest difference of their states, in latent units, that is let pass.
        progress: whether to tell of it; if None, only on a terminal.

    Returns:
        What was found. Images that are not complete are listed, and are no failure.

    Raises:
        FileNotFoundError: if nothing is at ``path``, or the model's weights are not here.
        ValueError: if it is no calibzarr store, or of a format that this version cannot read.
        OptionError: if a value is not allowed, or the model is not known.
    """
    path, console = Path(path), progress_console(progress)
    at_least("sample", sample, 1)
    if not 0 <= tolerance < float("inf"):
        raise OptionError(Option("tolerance"), f" must be 0 or more, got {tolerance}")
    tally = Tally()
    root, errors = checked_root(path)
    tally.record("manifest", errors)
    if root is None or errors:
        return _report(path, np.zeros(0, dtype=bool), tally)
    complete = store.completed(path, root.attributes["num_images"])
    in_root, of_arrays = metadata_errors(root)
    tally.record("metadata", in_root + of_arrays)
    if in_root:  # readers go by it: values would mean nothing
        return _report(path, complete, tally)
    try:
        opened = open_for_checks(root, complete)
    except StoreError as error:
        tally.record("metadata", [f"the arrays cannot be opened: {error}"])
        return _report(path, complete, tally)
    tally.add(check_coordinates(opened))
    tally.add(check_images(opened, console))
    for addition, check in _ADDITIONS:
        if has(root.attributes, addition):
            tally.add(check(opened.group, root.attributes, complete))
    if model:
        from calibzarr.integrity import regeneration  # and the model's framework

        images = _without_findings(opened, tally)
        tally.add(
            regeneration.check(
                opened, images, sample=sample, seed=seed, tolerance=tolerance, console=console
            )
        )
    return _report(path, complete, tally)


def _report(path: Path, complete: np.ndarray, tally: Tally) -> Report:
    order = list(CHECKS)
    found = sorted(
        tally.findings, key=lambda finding: (order.index(finding.check), finding.image or 0)
    )
    incomplete = tuple(np.flatnonzero(~complete).tolist())
    return Report(path, len(complete), incomplete, dict(tally.passed), tuple(found))


def _without_findings(opened: Opened, tally: Tally) -> np.ndarray:
    """Complete images that nothing was found about."""
    doubtful = [finding.image for finding in tally.findings if finding.image is not None]
    return np.setdiff1d(np.flatnonzero(opened.complete), doubtful)
