"""A store's model as it made the store: quantized, where that is a run."""

from pathlib import Path

from calibzarr.errors import StoreError
from calibzarr.models import registry
from calibzarr.models.base import Model, QuantizableModel
from calibzarr.models.quantized import layout
from calibzarr.models.quantized.checkpointable import CheckpointableModel
from calibzarr.quantization.configuration import check_model
from calibzarr.sampling import runs
from calibzarr.sampling.runs import Run
from calibzarr.storage.manifest import Root


def load(root: Root, model: Model | None = None) -> Model:
    """Load a store's model, quantized as the store says; whoever asks checks its fingerprint.

    Args:
        root: of the store.
        model: the full-precision model, if it is loaded already; it stays as it is.

    Raises:
        StoreError: if the store is damaged, or its model cannot be quantized so.
        OptionError: if there is no such model.
        OSError: if its weights are missing and cannot be downloaded.
    """
    return quantized(model or registry.load(root.attributes["model"]), runs.stored(root))


def quantized(model: Model, run: Run | None) -> Model:
    """The model that makes the images of a run; the model itself where there is none.

    Raises:
        StoreError: if it cannot be quantized, or the configuration is for another model.
    """
    if run is None:
        return model
    if run.configuration is None:
        return _of_checkpoint(model, Path(run.quantized["path"]), run.quantized["sha256"])
    if not isinstance(model, QuantizableModel):
        raise StoreError(
            f"{model.name} cannot be run quantized: it has no method quantized(configuration)"
        )
    check_model(run.configuration, model.layers(), model.fingerprint, model.name)
    return model.quantized(run.configuration)


def _of_checkpoint(model: Model, directory: Path, sha256: str) -> Model:
    """The model with a checkpoint's transformer, if that is still what a run was begun with."""
    if not isinstance(model, CheckpointableModel):
        raise StoreError(f"{model.name} cannot be run with a quantized checkpoint")
    if not directory.exists() or layout.sha256(directory) != sha256:
        raise StoreError(
            f"{directory} is not the checkpoint that the run was begun with; put that one back"
        )
    return model.with_checkpoint(directory)
