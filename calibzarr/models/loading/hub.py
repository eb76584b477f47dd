"""Files of weights on the Hugging Face Hub, and whether they are on this machine."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calibzarr.errors import Call, MissingFilesError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

Files = Sequence[tuple[str, str]]
"""(repository, file) pairs."""

_TIMEOUT = 10  # seconds that the Hub has to answer


def missing(files: Files) -> tuple[tuple[str, str], ...]:
    """Those of the files that are not on this machine."""
    if not files:
        return ()
    from huggingface_hub import try_to_load_from_cache

    return tuple(
        (repository, file)
        for repository, file in files
        if not isinstance(try_to_load_from_cache(repository, file), str)
    )


def check(model: str, files: Files) -> None:
    """Check that all files are on this machine; ask nobody.

    Raises:
        MissingFilesError: if not; says how to fetch them.
    """
    if wanted := missing(files):
        raise _missing(model, wanted)


def fetch(model: str, files: Files) -> None:
    """Download what is not on this machine.

    Raises:
        MissingFilesError: if a file cannot be had; says why, and how to fetch it.
    """
    from huggingface_hub import hf_hub_download

    wanted = missing(files)
    for repository in dict(wanted):  # before a download, which would ask again for half a minute
        _described(model, repository, wanted)
    for repository, file in wanted:
        try:
            hf_hub_download(repository, file)
        except Exception as error:
            raise _missing(model, missing(files), repository, error) from error


def fetch_weights(repository: str, except_for: str) -> None:
    """Download the weights of a repository that holds one file of them.

    Args:
        repository: its name.
        except_for: a file that may be beside the weights, and is wanted as well.

    Raises:
        MissingFilesError: if it does not, or if it cannot be had.
    """
    siblings = [one.rfilename for one in _described(repository, repository, ()).siblings or ()]
    files = [name for name in siblings if name.endswith(".safetensors") and "/" not in name]
    weights = [name for name in files if name != except_for]
    if len(weights) != 1:
        found = ", ".join(weights[:5]) or "none"
        raise MissingFilesError(
            f"{repository} has to have one file of weights, *.safetensors; it has {found}; fetch "
            "one of them, and give its path",
            commands=(f"hf download {repository} FILE",),
        )
    fetch(repository, [(repository, name) for name in files])


def _described(model: str, repository: str, wanted: Files) -> "ModelInfo":
    """What the Hub says of a repository, once and soon."""
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(repository, timeout=_TIMEOUT)
    except Exception as error:
        raise _missing(model, wanted, repository, error) from error


def _missing(
    model: str, wanted: Files, repository: str = "", error: Exception | None = None
) -> MissingFilesError:
    """The error that says what is missing, and what to type."""
    # File by file: google/t5-v1_1-xxl also holds all of T5, which nothing here reads.
    by_repository = {name: [file for of, file in wanted if of == name] for name in dict(wanted)}
    commands = [" ".join(["hf download", name, *files]) for name, files in by_repository.items()]
    if error is None:
        return MissingFilesError(
            f"{model} needs {len(wanted)} files that are not on this machine; fetch them by ",
            *(Call("download", (model,)), ", or by:"),
            commands=commands,
        )
    reason = next(_lines(error), type(error).__name__).rstrip(".")
    return MissingFilesError(
        f"{model}: {repository} cannot be fetched: {reason}. Where there is a network, accept the "
        "repository's licence if it has one; then run:",
        commands=commands or [f"hf download {repository}"],
    )


def _lines(error: BaseException) -> Iterator[str]:
    return (line.strip() for line in str(error).splitlines() if line.strip())


def cached_snapshot(repository: str) -> Path | None:
    """The directory of a repository's files on this machine, if there are any."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def path(repository: str, file: str) -> Path:
    """Where a file is that is on this machine."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, file, local_files_only=True))


def check_sha256(path: Path, expected: str) -> None:
    """Check that a file of this package is whole.

    Raises:
        ValueError: if not.
    """
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is {actual}, not {expected}; reinstall calibzarr"
        )
