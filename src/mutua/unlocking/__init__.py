"""MMA in a Transformers model that someone else trained: `mutua.unlock(model, processor)`."""

from mutua.unlocking.finder import ROLES
from mutua.unlocking.loading import UnlockedModel, is_foreign, load_foreign, load_foreign_processor, open_model
from mutua.unlocking.replies import reply_logits
from mutua.unlocking.saved import saved_policy
from mutua.unlocking.switch import expect_unlocked, is_unlocked, lock, policy_of, unlock

__all__ = [
    "ROLES",
    "UnlockedModel",
    "expect_unlocked",
    "is_foreign",
    "is_unlocked",
    "load_foreign",
    "load_foreign_processor",
    "lock",
    "open_model",
    "policy_of",
    "reply_logits",
    "saved_policy",
    "unlock",
]
