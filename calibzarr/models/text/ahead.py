"""Prompts that are encoded ahead, so that a large text encoder leaves memory while others work."""

from collections.abc import Callable, Sequence

from calibzarr.models.base import Conditioning, Model, UnloadingModel, encoded

MOST_BYTES = 2 * 10**9


def unload(model: Model) -> None:
    """Free the memory of a model's large text encoder, if it has one; what needs it reads it."""
    if isinstance(model, UnloadingModel) and model.unloads:
        model.unload_text_encoder()


class Encoder:
    """Encodes prompts; a text encoder that can leave memory is not held between calls.

    Then prompts that will be asked for are encoded together, as many as fit, and their
    conditionings are kept. Each is encoded by itself: what is given never depends on that.

    Args:
        model: with the text encoders.
        cfg_weight: weight of classifier-free guidance; 0 for none.
        guidance: of a guided model; or None.
        ahead: prompts that will be asked for, in order.
        proceed: asked before each that nobody waits for; whether to go on.
        most_bytes: of conditionings that are kept.
    """

    def __init__(
        self,
        model: Model,
        cfg_weight: float,
        guidance: float | None,
        ahead: Sequence[str] = (),
        *,
        proceed: Callable[[], bool] = lambda: True,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._model = model
        self._settings = cfg_weight, guidance
        self._ahead = list(dict.fromkeys(ahead))
        self._proceed = proceed
        self._most_bytes = most_bytes
        self._kept: dict[str, Conditioning] = {}  # the longest kept first

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """What the model makes of the prompts of a batch."""
        model = self._model
        if not (isinstance(model, UnloadingModel) and model.unloads):
            return encoded(model, prompts, *self._settings)
        if missing := [prompt for prompt in prompts if prompt not in self._kept]:
            self._encode(prompts, missing[0])
            unload(model)
        return model.joined([self._kept[prompt] for prompt in prompts])

    def _encode(self, wanted: Sequence[str], first: str) -> None:
        """Encode what is wanted, and what comes after the first that is missing."""
        position = self._ahead.index(first) if first in self._ahead else len(self._ahead)
        kept = {prompt: self._kept.pop(prompt) for prompt in wanted if prompt in self._kept}
        used = sum(conditioning.nbytes for conditioning in kept.values())
        for prompt in dict.fromkeys((*wanted, *self._ahead[position:])):
            if prompt in kept or prompt in self._kept:
                continue
            if prompt not in wanted and (used >= self._most_bytes or not self._proceed()):
                break
            kept[prompt] = encoded(self._model, [prompt], *self._settings)
            used += kept[prompt].nbytes
        for prompt in list(self._kept):
            if used + sum(c.nbytes for c in self._kept.values()) > self._most_bytes:
                del self._kept[prompt]
        self._kept.update(kept)
