"""Which models can be unlocked: named refusals, and the proof on the model itself that its layers obey the mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mutua.attention import MMA, Policy
from mutua.attention.request import NoRequestError
from mutua.composition.language import fault_of, probe_roles, why_no_mask
from mutua.models import MutuaForConditionalGeneration
from mutua.unlocking.finder import ROLES
from mutua.unlocking.generation import METHODS
from mutua.unlocking.hooks import Settings

UNREACHED = "its attention layers get masks that are made where Mutua does not look"

# Their own mask lets a whole prompt see itself.
_PREFIX_MODELS = ("paligemma",)


def sees_whole_prompt(model: Any) -> bool:
    """Whether images see the question already, by the model's own mask: MMA would add nothing."""
    return isinstance(model, PreTrainedModel) and model.config.model_type in _PREFIX_MODELS


def refuse_unfit(model: Any) -> None:
    """Raises ValueError, with the reason, for a model that cannot be unlocked."""
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"unlock takes a Transformers model, not {type(model).__name__}: unlock it before PEFT, DDP or "
            "torch.compile wrap it."
        )
    if isinstance(model, MutuaForConditionalGeneration):
        raise ValueError("this is Mutua's own model, never locked: set model.config.attention_policy.")
    if replaced := [name for name in METHODS if name in vars(model)]:
        raise ValueError(
            f"the model's own {replaced[0]} was replaced by something else already: unlock it as it was loaded."
        )
    config = model.config
    if not model.can_generate():
        raise unfit(config, f"{type(model).__name__} has no language-model head: load the whole model")
    if config.is_encoder_decoder:
        raise unfit(config, "its pictures go into an encoder, which sees no question")
    text_config = config.get_text_config()
    if any(getattr(text_config, key, None) for key in ("cross_attention_layers", "cross_layer_interval")):
        raise unfit(config, "its text looks at pictures by cross-attention, so no token of a picture is in the text")
    if (problem := why_no_mask(model.get_decoder())) is not None:
        raise unfit(config, f"of its language model: {problem}")
    if not hasattr(model, "hf_device_map") and all(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("the model has no weights yet (it is on the meta device): load them first, then unlock it.")


def refuse_policy(policy: Policy, knows_items: bool) -> None:
    """Raises ValueError for a policy that cannot be applied from outside of a model."""
    if policy.within_item == "rings":
        raise ValueError(
            f"policy {policy.name!r} numbers the tokens of an image in its own way, and an unlocked model numbers them "
            "itself: use it with a model of Mutua's own (mutua.compose)."
        )
    if policy.within_item != "causal" and not knows_items:
        raise ValueError(
            f"policy {policy.name!r} has to know where one image ends: mutua.unlock(model, processor, policy=...)."
        )


@torch.no_grad()
def fault(model: PreTrainedModel, settings: Settings) -> str | None:
    """What is wrong with the model, hooks in place, in a few words; None if images see the question and no more.

    Twelve tokens, three times, through all layers: a model that drops the roles or the mask somewhere shows.
    """
    feature, modality = next(iter(settings.finder.features.items()))
    codes_BN = probe_roles(modality).to_codes().to(model.device)
    words = [index for index in range(1, 40) if index not in settings.finder.features][:12]
    ids_BN = torch.tensor([words[:1] + [feature] * 3 + words[4:]], device=model.device)

    def states(swapped: int | None = None) -> Tensor:
        ids = ids_BN.clone()
        if swapped is not None:
            ids[0, swapped] = ids[0, swapped - 1]
        out = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **{ROLES: codes_BN})
        return out[0][0].float()

    policy, training = settings.policy, {module: module.training for module in model.modules()}
    settings.policy = MMA
    model.eval()
    try:
        return fault_of(states, model.dtype)
    except NoRequestError:
        return UNREACHED
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError, KeyError) as error:
        return f"it fails on token roles, or on a mask that follows from them ({type(error).__name__}: {error})"
    finally:
        settings.policy = policy
        for module, was_training in training.items():
            module.training = was_training


def unfit(config: Any, reason: str) -> ValueError:
    """The error that refuses a model."""
    return ValueError(
        f"a model of type {config.model_type!r} cannot be unlocked: {reason}. docs/unlock.md lists those that can."
    )
