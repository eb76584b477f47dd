"""Files of weights on the Hugging Face Hub, and whether they are on this machine."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

Files = Sequence[tuple[str, str]]
"""(repository, file) pairs."""


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


def download(model: str, files: Files) -> None:
    """Fetch what is missing.

    Raises:
        FileNotFoundError: if a file cannot be fetched; tells how to.
    """
    from huggingface_hub import hf_hub_download

    wanted = missing(files)
    for repository, file in wanted:
        try:
            hf_hub_download(repository, file)
        except Exception as error:
            reason = next(_lines(error), type(error).__name__).rstrip(".")
            # File by file: google/t5-v1_1-xxl also holds all of T5, which nothing here reads.
            commands = " && ".join(
                " ".join(["hf download", name, *(f for r, f in wanted if r == name)])
                for name in dict(wanted)
            )
            raise FileNotFoundError(
                f"{model} needs {file} of the Hugging Face repository {repository}, which is "
                f"not on this machine and cannot be downloaded ({reason}). Where there is a "
                f"network, accept the repository's licence if it has one, then run: {commands}"
            ) from error


def _lines(error: BaseException) -> Iterator[str]:
    return (line.strip() for line in str(error).splitlines() if line.strip())


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
