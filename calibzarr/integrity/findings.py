"""What a verification found, as values."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKS = {
    "manifest": "the root is what was written, and so is its copy",
    "files": "every file but those of images is what was written, and there is no other",
    "coordinates": "coordinates can be read; what is marked as complete is there",
    "schedule": "sigma falls to 0 by the sampler's formula; timestep is 1000 sigma",
    "states": "an image's shard can be read, with all its checksums",
    "finite": "all of an image's states are finite",
    "noise": "an image's first state is the noise of its seed",
    "euler": "an image's neighbouring states follow one path",
    "picture": "an image's picture can be read, belongs to its states, and is not of one colour",
    "statistics": "statistics cover complete images",
    "sensitivities": "sensitivities are of complete images",
    "model": "the model makes an image's states again",
    "decoding": "the model makes an image's picture again",
}
"""Every check and what it means, in the order that they are made."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be.

    Attributes:
        check: which check found it, a key of ``CHECKS``.
        image: the image that it is about, or None where it is about the whole store.
        message: what is wrong.
    """

    check: str
    image: int | None
    message: str


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        path: directory of the store.
        num_images: images of the store.
        incomplete: images that are not complete, which is no failure.
        passed: how often each check passed: once for the store, or once for each image or step.
        findings: what is wrong; nothing, if the store is whole and true.
        notes: what is to be known, and is no failure.
    """

    path: Path
    num_images: int
    incomplete: tuple[int, ...]
    passed: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """The report in JSON types."""
        failed = Counter(finding.check for finding in self.findings)
        return {
            "path": str(self.path),
            "ok": self.ok,
            "num_images": self.num_images,
            "incomplete": list(self.incomplete),
            "checks": {
                name: {"passed": self.passed.get(name, 0), "failed": failed[name]}
                for name in CHECKS
                if name in self.passed or failed[name]
            },
            "findings": [vars(finding) for finding in self.findings],
            "notes": list(self.notes),
        }


@dataclass
class Tally:
    """Findings and passes as they come."""

    passed: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def record(self, check: str, messages: list[str], image: int | None = None) -> None:
        """Count a check that was made once, with what it found."""
        self.passed[check] += not messages
        self.findings += [Finding(check, image, message) for message in messages]

    def add(self, other: "Tally") -> None:
        """Add what another one counted."""
        self.passed.update(other.passed)
        self.findings += other.findings
