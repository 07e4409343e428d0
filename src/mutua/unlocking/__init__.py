"""MMA in a Transformers model that someone else trained: `mutua.unlock(model, processor)`."""

from mutua.unlocking.finder import ROLES
from mutua.unlocking.loading import UnlockedModel, is_another_model, load_another, load_other_processor
from mutua.unlocking.replies import reply_logits
from mutua.unlocking.saved import saved_policy
from mutua.unlocking.switch import expect_unlocked, is_unlocked, lock, policy_of, unlock

__all__ = [
    "ROLES",
    "UnlockedModel",
    "expect_unlocked",
    "is_another_model",
    "is_unlocked",
    "load_another",
    "load_other_processor",
    "lock",
    "policy_of",
    "reply_logits",
    "saved_policy",
    "unlock",
]
