"""`mutua.unlock` and `mutua.lock`: an attention policy for a Transformers model that someone else trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from mutua.attention import BACKENDS, get_policy, resolve
from mutua.unlocking import generation, saved
from mutua.unlocking.finder import RolesFinder
from mutua.unlocking.fitness import UNREACHED, fault, refuse_policy, refuse_unfit, sees_whole_prompt, unfit
from mutua.unlocking.hooks import GiveRoles, LookBack, PlaceRequest, Settings

_STATE = "_mutua_unlocked"

Model = TypeVar("Model", bound=PreTrainedModel)


@dataclass
class _Unlocked:
    """What `lock` needs to undo `unlock`, and `unlock` to do it again.

    Attributes:
        masks: the module that makes the attention masks.
    """

    settings: Settings
    backend: str
    locked_implementation: str
    masks: PreTrainedModel
    handles: list[RemovableHandle]
    locked_config: str


def unlock(model: Model, processor: Any = None, policy: str = "mma", backend: str = "auto") -> Model:
    """Lets the images of a Transformers model see the question that follows them; the same model, changed in place.

    No weight changes, and nothing of Transformers is patched: the model gets hooks, and its language model one of
    Mutua's attention backends. The vision encoder keeps its own. `lock` undoes it.

    Args:
        model: as from `AutoModelForImageTextToText.from_pretrained`; docs/unlock.md lists the families.
        processor: the model's, with a chat template; who says what is then found in the token ids of every batch.
            (Or the `ReplyPattern` learned from it.) None takes the whole prompt of a `generate` as one block, and
            wants the roles given for everything else.
        policy: a name from `mutua doctor`, e.g. "mma", "prefix", "causal".
        backend: "auto", "split", "sdpa", "flex" or "reference".

    Raises:
        ValueError: the model, the policy, the backend or the processor will not do; the message says why.
    """
    name, chosen = _backend(backend), get_policy(policy)
    if sees_whole_prompt(model):
        warnings.warn(
            f"a model of type {model.config.model_type!r} lets its whole prompt see itself already, so images see the "
            "question without Mutua: nothing was changed.",
            stacklevel=2,
        )
        return model
    was_unlocked = isinstance(model, PreTrainedModel) and is_unlocked(model)
    if not was_unlocked:
        refuse_unfit(model)
    before = saved.saved_policy(model.config)
    if before not in (None, policy) and not was_unlocked:
        warnings.warn(f"the model was saved under policy {before!r}, and is now under {policy!r}.", stacklevel=2)
    finder = RolesFinder.of(model.config, processor, chosen)
    refuse_policy(chosen, knows_items=finder.pattern is not None)
    previous: _Unlocked | None = vars(model).get(_STATE)
    lock(model)
    decoder = model.get_decoder()
    settings = Settings(chosen, finder, decoder.config)
    problem = None
    # Most models' masks are made by the language model, a few by the model around it.
    for masks in dict.fromkeys((decoder, model.base_model)):
        try:
            _apply(model, settings, name, masks)
            found = fault(model, settings)
            if found is None:
                return model
        except BaseException:
            _back_to(model, previous, before)
            raise
        lock(model)
        problem = found if problem in (None, UNREACHED) else problem
    _back_to(model, previous, before)
    raise unfit(model.config, str(problem))


def _apply(model: PreTrainedModel, settings: Settings, backend: str, masks: PreTrainedModel) -> None:
    """Puts everything on a locked model."""
    decoder, own = model.get_decoder(), model.config._attn_implementation
    locked = _own_implementation(decoder)
    state = _Unlocked(settings, backend, locked, masks, [], locked if own in BACKENDS else own)
    setattr(model, _STATE, state)
    _put_parts_right(model, decoder)
    decoder.set_attn_implementation(backend)
    _say(model.config, backend)
    for module in dict.fromkeys((model, model.base_model)):
        hook = GiveRoles(settings, module)
        state.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    state.handles.append(masks.register_forward_pre_hook(PlaceRequest(settings, masks), with_kwargs=True))
    state.handles.append(masks.register_forward_hook(LookBack(), with_kwargs=True))
    generation.stand_in(model, settings.finder)
    saved.note(model.config, decoder.config, backend, settings.policy.name)


def _back_to(model: PreTrainedModel, previous: _Unlocked | None, saved_under: str | None) -> None:
    """A model that is refused is left as it was: unlocked otherwise, or loaded and not to be used before it is."""
    lock(model)
    if previous is not None:
        _apply(model, previous.settings, previous.backend, previous.masks)
    elif saved_under is not None:
        decoder, backend = model.get_decoder(), resolve(None)
        decoder.set_attn_implementation(backend)
        saved.note(model.config, decoder.config, backend, saved_under)


def lock(model: Model) -> Model:
    """Undoes `unlock`, bit for bit; a model that is not unlocked stays as it is.

    One that was saved unlocked, or loaded with a backend of Mutua's by name, is made causal on purpose.
    """
    inner: Any = _unwrapped(model)
    state: _Unlocked | None = vars(inner).pop(_STATE, None)
    decoder = inner.get_decoder()
    is_asked = decoder.config._attn_implementation in BACKENDS and not hasattr(inner.config, "attention_policy")
    if state is None and saved.saved_policy(inner.config) is None and not is_asked:
        return model
    if state is not None:
        for handle in state.handles:
            handle.remove()
        generation.step_aside(inner)
    _put_parts_right(inner, decoder)
    own = _own_implementation(decoder)
    decoder.set_attn_implementation(own if state is None else state.locked_implementation)
    _say(inner.config, own if state is None else state.locked_config)
    saved.forget(inner.config, decoder.config)
    return model


def is_unlocked(model: Any) -> bool:
    """Whether `unlock` was called on the model, or on one that it wraps (PEFT, DDP ...), and `lock` not since."""
    return _STATE in getattr(_unwrapped(model), "__dict__", {})


def _unwrapped(model: Any) -> Any:
    """The unlocked model in it, or else the first one of Transformers, or else itself."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    found = [part for part in parts if _STATE in vars(part)] or [p for p in parts if isinstance(p, PreTrainedModel)]
    return found[0] if found else model


def expect_unlocked(model: Any) -> None:
    """Raises ValueError for a model that `unlock` left as it was, because its whole prompt sees itself already."""
    if not is_unlocked(model):
        kind = model.config.model_type
        raise ValueError(f"a model of type {kind!r} lets its whole prompt see itself: there is nothing to unlock.")


def policy_of(model: Any) -> str | None:
    """The name of the policy of an unlocked model, or of one of Mutua's own; None for any other."""
    inner: Any = _unwrapped(model)
    if is_unlocked(inner):
        return str(vars(inner)[_STATE].settings.policy.name)
    return getattr(getattr(inner, "config", None), "attention_policy", None)


def _say(config: Any, implementation: str) -> None:
    """What the whole model's config says: whoever loads a second model by it, as TRL does its reference model, asks for
    the same, and so cannot be causal without a word. Past the property, which would hand it down to all parts."""
    vars(config)["_attn_implementation_internal"] = implementation


def _put_parts_right(model: PreTrainedModel, decoder: PreTrainedModel) -> None:
    """A loader gives one name to all parts of a model, and what has no words has no use for ours."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and part.config not in (model.config, decoder.config):
            part.set_attn_implementation(_own_implementation(part))


def _own_implementation(decoder: PreTrainedModel) -> str:
    """The attention of a locked language model; of one that was saved unlocked, what Transformers would take."""
    asked = decoder.config._attn_implementation
    return decoder.get_correct_attn_implementation(None) if asked in BACKENDS else asked


def _backend(name: str) -> str:
    known = f"mutua_{name}"
    if "flash" in str(name):
        raise ValueError(
            f"backend {name!r}: no flash implementation of Transformers takes a look-ahead mask. Use 'split', which "
            "runs the same kernels and is exact."
        )
    return known if known in BACKENDS else resolve(name)
