"""MMA in a Transformers model that someone else trained: `mutua.unlock(model, processor)`."""

from mutua.unlocking.finder import ROLES
from mutua.unlocking.switch import is_unlocked, lock, unlock

__all__ = ["ROLES", "is_unlocked", "lock", "unlock"]
