"""What a sample may hold, and whether it does: a run, `mutua plan` and `mutua data check` all ask here.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mutua.data.collate import IGNORE, encode, role_codes
from mutua.data.packing import images_of
from mutua.data.sample import Sample
from mutua.roles import TokenRoles


class UnfitError(ValueError):
    """A sample that a run leaves out.

    Attributes:
        kind: a key of `mutua.data.check.SKIPPED`.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True)
class SampleLimits:
    """What a sample may hold.

    Attributes:
        tokens, images: None where there is no limit.
        key: what limits the tokens, a key of the recipe or "the language model"; None without a recipe.
        cuts: whether a sample of too many tokens is cut to the turns that fit whole.
    """

    tokens: int | None = None
    images: int | None = None
    key: str | None = None
    cuts: bool = False

    def fit(self, sample: Sample, whole: Mapping[str, Tensor], processor: Any) -> tuple[Sample, Mapping[str, Tensor]]:
        """The sample as a run uses it, another one where it is cut, and its tensors.

        Args:
            whole: what `encode` makes of the sample alone.

        Raises:
            UnfitError: it is left out. Images count once it is cut: those that are cut off do no harm.
        """
        batch, tokens = whole, whole["input_ids"].shape[1]
        if self.tokens is not None and tokens > self.tokens:
            shorter = _cut_to_turns(sample, whole, processor, self.tokens) if self.cuts else None
            if shorter is None:
                allowed = f"{self.key} allows {self.tokens}" if self.key else f"{self.tokens} are allowed"
                raise UnfitError("long", f"{tokens} tokens, and {allowed}")
            sample, batch = shorter
        images = int(images_of(role_codes(batch)))
        if self.images is not None and images > self.images:
            allowed = (
                f"data.packing.max_images allows {self.images} in a row" if self.key else f"{self.images} are allowed"
            )
            reason = f"{images} images, and {allowed}"
            raise UnfitError("many pictures", reason)
        if not bool(_has_reply(batch)):
            reason = "no token is supervised, for it holds no reply: give it an assistant message"
            raise UnfitError("unanswered", reason)
        return sample, batch

    def are_met(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B,) whether `fit` would take the sample of a row as it is."""
        is_met_B = _has_reply(batch)
        if self.tokens is not None:
            is_met_B &= batch["attention_mask"].sum(-1) <= self.tokens
        if self.images is not None:
            is_met_B &= images_of(role_codes(batch)) <= self.images
        return is_met_B


def _has_reply(batch: Mapping[str, Tensor]) -> Tensor:
    """(B,) whether anything is learned from a row; its first token follows nothing, so it cannot be predicted."""
    return (batch["labels"][:, 1:] != IGNORE).any(-1)


def _cut_to_turns(
    sample: Sample, whole: Mapping[str, Tensor], processor: Any, max_tokens: int
) -> tuple[Sample, Mapping[str, Tensor]] | None:
    """The sample up to the last reply that ends within `max_tokens` tokens, and its tensors; None if not even its first
    one does."""
    roles = TokenRoles.from_codes(role_codes(whole)[:, : max_tokens + 1])
    is_response_N = roles.is_response_BN[0].int()
    # A reply has ended where a token behind it, the last one looked at included, is none.
    turns = int((is_response_N.diff() == -1).sum())
    ends = [place + 1 for place, message in enumerate(sample.messages) if message.role == "assistant"]
    for end in reversed(ends[:turns]):
        shorter = sample.model_copy(update={"messages": sample.messages[:end]})
        # Counted anew: a template may end a conversation otherwise than it goes on after a reply.
        batch = encode([shorter], processor)
        if batch["input_ids"].shape[1] <= max_tokens:
            return shorter, batch
    return None
