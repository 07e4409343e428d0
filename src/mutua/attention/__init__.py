"""The heart of the project: policies, the oracle, and the backends that compute them."""

from mutua.attention.backends import BACKENDS, Backend, register, resolve
from mutua.attention.policy import CAUSAL, MMA, POLICIES, Policy, get_policy
from mutua.attention.request import MaskRequest
from mutua.attention.rule import allowed_mask

__all__ = [
    "BACKENDS",
    "CAUSAL",
    "MMA",
    "POLICIES",
    "Backend",
    "MaskRequest",
    "Policy",
    "allowed_mask",
    "get_policy",
    "register",
    "resolve",
]
