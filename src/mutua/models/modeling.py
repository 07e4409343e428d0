"""The model: vision encoder + connector + decoder, with the attention policy applied in one place.

Roles travel in `token_type_ids` (see `mutua.roles`), the name that Transformers already slices, pads and carries
through `generate`. Shape suffixes: B batch, N tokens of this forward, K keys (cached ones included), I images,
P patches, V vision width, T text width.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from mutua.attention import BACKENDS, MaskRequest, get_policy, resolve
from mutua.models.checks import (
    expect_backend,
    expect_labels_on_responses,
    expect_roles,
    expect_shapes,
    refuse_gradients_on_prompts,
    roles_of_forward,
)
from mutua.models.configuration import MutuaConfig
from mutua.models.connectors import CONNECTORS, PerceiverResampler
from mutua.models.generate import RolesInGeneration, passes_rope_switch
from mutua.models.head_loss import LossOutput, head_loss
from mutua.models.longest_text import expect_positions
from mutua.models.saved_folder import write_card
from mutua.models.text_so_far import TextSoFar
from mutua.models.vision import check_feature_layer, image_side, prefix_tokens
from mutua.roles import Modality


class MutuaPreTrainedModel(PreTrainedModel):
    """What Transformers needs to know of the family."""

    config_class = MutuaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012 (Transformers reads it as a plain attribute)
    _supports_sdpa = True
    _supports_attention_backend = True
    # A flash request must raise: Transformers' flash path would ignore the look-ahead.
    _supports_flash_attn = False

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing: Transformers would copy our source files into every saved folder; `auto_map` names the package."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PerceiverResampler):
            nn.init.normal_(module.latents)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        if attn_implementation is not None:
            resolve(attn_implementation)  # where Transformers refuses one, it does not say which there are
        return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)

    def set_attn_implementation(self, attn_implementation: str | dict, allow_all_kernels: bool = False) -> None:
        """As in Transformers. A name goes to the language model (as the backend that serves it); the vision encoder
        looks at whole images and keeps its own, unless a dict says otherwise."""
        requested = (
            attn_implementation if isinstance(attn_implementation, dict) else {"text_config": attn_implementation}
        )
        if "text_config" in requested:
            backend = resolve(requested["text_config"])
            requested = {**requested, "text_config": backend, "": backend}
        super().set_attn_implementation(requested, allow_all_kernels)


class MutuaModel(MutuaPreTrainedModel):
    """Vision encoder, connector and decoder, without the language-model head."""

    def __init__(self, config: MutuaConfig) -> None:
        super().__init__(config)
        check_feature_layer(config.vision_config, config.vision_feature_layer)
        backend, own = resolve(config.text_config._attn_implementation), config.vision_config._attn_implementation
        if own in BACKENDS:  # from_pretrained hands one name to all parts
            own = None
        config._attn_implementation = {"": backend, "text_config": backend, "vision_config": own}
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.connector = CONNECTORS[config.connector](config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.has_head = False  # whether a language-model head takes what this model returns
        self.post_init()

    def train(self, mode: bool = True) -> MutuaModel:
        """As any module's. But a vision encoder of which nothing is trained stays as it is in use: DINOv3 would scale
        its positions at random."""
        super().train(mode)
        if not self._trains_vision():
            self.vision_tower.eval()
        return self

    def _trains_vision(self) -> bool:
        return any(weight.requires_grad for weight in self.vision_tower.parameters())

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_vision_features(self, pixel_values: Tensor) -> Tensor:
        """(I, 3, H, W) pixels to (I, P, V): the patch grid, row by row, from the config's `vision_feature_layer`."""
        layer, side = self.config.vision_feature_layer, image_side(self.config.vision_config, self.config.image_size)
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, side, side):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}, but the model takes (images, 3, {side}, {side}): "
                "prepare the images with the model's own MutuaProcessor."
            )
        # With gradient checkpointing Transformers has every embedding require gradients, those of a frozen encoder too,
        # of which all layers would then be kept for a backward pass that nobody asks for.
        needs_graph = pixel_values.requires_grad or self._trains_vision()
        with nullcontext() if needs_graph or not torch.is_grad_enabled() else torch.no_grad():
            out = self.vision_tower(pixel_values=pixel_values, output_hidden_states=layer != -1)
        features_INV = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
        return features_INV[:, prefix_tokens(self.config.vision_config) :]

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """`pooler_output` holds the visual tokens, (I, tokens per image, T)."""
        features_IPV = self.get_vision_features(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=features_IPV, pooler_output=self.connector(features_IPV))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        vision_features: Tensor | None = None,
        labels_are_checked: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """See `MutuaForConditionalGeneration.forward`.

        Args:
            labels_are_checked: the caller knows that nothing but responses will be predicted from the result. Else, and
                if there is a head to predict with, the backward pass makes sure.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds.")
        text_config, weights = self.config.text_config, kwargs.get("output_attentions")
        expect_backend(text_config, weights, "model.set_attn_implementation({})")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        batch, tokens = inputs_embeds.shape[:2]
        pictures = pixel_values if pixel_values is not None else vision_features

        expect_shapes(batch, tokens, past, attention_mask, token_type_ids)
        is_packed = attention_mask is None and past_key_values is None  # or may be: Transformers goes by the same
        roles = roles_of_forward(inputs_embeds, token_type_ids, attention_mask, position_ids if is_packed else None)
        # A single token behind a cache is something that the model said: there is nothing to look at.
        is_step = past_key_values is not None and tokens == 1 and token_type_ids is None and pictures is None
        if not is_step:
            roles = expect_roles(
                roles,
                is_image_BN=None if input_ids is None else input_ids == self.config.image_token_id,
                images=None if pictures is None else pictures.shape[0],  # `len` would fix it while traced
                tokens_per_image=self.config.num_image_tokens,
                has_codes=token_type_ids is not None,
                has_cache=past_key_values is not None,
            )
        if pixel_values is not None:
            vision_features = self.get_vision_features(pixel_values)
        if vision_features is not None:
            image_tokens_IPT = self.connector(vision_features).to(inputs_embeds)  # maybe on another device, too
            is_image_BN1 = (roles.modality_BN == int(Modality.IMAGE))[..., None].to(inputs_embeds.device)
            inputs_embeds = inputs_embeds.masked_scatter(is_image_BN1, image_tokens_IPT)
        elif not is_step and is_one_of_several_processes():
            inputs_embeds = inputs_embeds + self._nothing_of_a_blank_image(inputs_embeds)

        policy = get_policy(self.config.attention_policy)
        if token_type_ids is None and tokens > 1 and policy.needs_roles_of_text:
            raise ValueError(
                f"policy {policy.name!r} lets text look ahead, too, and without token_type_ids this text would be "
                "causal: pass what the processor's apply_chat_template returns (in a trainer: "
                "mutua.data.Collator(processor))."
            )
        text = TextSoFar(
            past_key_values, past, policy, roles, attention_mask, is_step, has_roles=token_type_ids is not None
        )
        if position_ids is None:
            position_ids = text.positions(has_roles=token_type_ids is not None)
        expect_positions(self.config.text_config, position_ids, past)
        if past_key_values is not None and passes_rope_switch(self.config.text_config, position_ids, past_key_values):
            raise ValueError(
                "longrope: the text now passes original_max_position_embeddings, from where on positions are encoded "
                "otherwise, so the cached keys no longer fit: run the whole text again without the cache (`generate` "
                "does so by itself)."
            )
        out = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=MaskRequest(roles, policy, text.padding_BK),
            position_ids=position_ids,
            past_key_values=past_key_values,
            return_dict=True,
            **kwargs,
        )
        text.note_on(out.past_key_values)
        if self.has_head and token_type_ids is not None and not labels_are_checked:
            hidden_BNT = refuse_gradients_on_prompts(out.last_hidden_state, roles, policy, self.training)
            if out.hidden_states is not None and out.hidden_states[-1] is out.last_hidden_state:
                out.hidden_states = (*out.hidden_states[:-1], hidden_BNT)
            out.last_hidden_state = hidden_BNT
        return out

    def _nothing_of_a_blank_image(self, like: Tensor) -> Tensor:
        """Zero, by way of the vision encoder and the connector.

        Where several processes share one model, all must run the same layers, and every trained weight needs a
        gradient: with a batch that holds no image, DDP would fail in training, and FSDP anywhere, or wait for ever.
        """
        side = image_side(self.config.vision_config, self.config.image_size)
        return 0.0 * self.connector(self.get_vision_features(like.new_zeros(1, 3, side, side))).sum().to(like.dtype)


def is_one_of_several_processes() -> bool:
    """Whether other processes may share the model."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


class MutuaForConditionalGeneration(MutuaPreTrainedModel, RolesInGeneration, GenerationMixin):
    """A multimodal language model under an attention policy, as a Transformers citizen."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: MutuaConfig) -> None:
        super().__init__(config)
        self.model = MutuaModel(config)
        self.model.has_head = True
        self.lm_head = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=config.lm_head_bias
        )
        self.post_init()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in Transformers, with a model card where there is none."""
        os.makedirs(save_directory, exist_ok=True)
        write_card(save_directory, self.config, get_policy(self.config.attention_policy).summary)
        super().save_pretrained(save_directory, *args, **kwargs)

    def save_all_but_weights(self, save_directory: str | os.PathLike[str]) -> None:
        """What `save_pretrained` writes beside the weights, which somebody else writes: those of a model in shards."""
        os.makedirs(save_directory, exist_ok=True)
        write_card(save_directory, self.config, get_policy(self.config.attention_policy).summary)
        self.config.architectures = [MutuaForConditionalGeneration.__name__]  # the class in shards has another name
        self.config.dtype = self.dtype
        self.config.save_pretrained(save_directory)
        self.generation_config.save_pretrained(save_directory)

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `MutuaModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        vision_features: Tensor | None = None,
        labels: Tensor | None = None,
        supervised_positions: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | LossOutput:
        """One forward pass.

        Args:
            input_ids: (B, N), with one image placeholder per visual token.
            pixel_values: (I, 3, H, W), the images of the batch in order of appearance.
            attention_mask: (B, K), 0 on padding; optional where the roles already say what is padding.
            token_type_ids: (B, N), the role codes that `MutuaProcessor` returns. Required where there are images.
            vision_features: (I, P, V), what `get_vision_features` gave, in place of `pixel_values` (cached features of
                a frozen encoder).
            labels: (B, N), -100 where nothing is to be predicted; must be -100 on prompt tokens under a policy that
                looks ahead.
            supervised_positions: (T,) where the labels are that count, in `labels` flattened, no first column among
                them (`mutua.data.collate.supervised_positions`). With them the head is computed for these alone, and
                the result is a `LossOutput` without logits: `num_items_in_batch` divides the loss, else T does.
            logits_to_keep: as in Transformers, how many of the last positions get logits (0: all), or which; the loss
                is over these alone.

        Raises:
            ValueError: images without roles, roles that contradict `input_ids`, a label on a prompt token.
        """
        if labels is not None:
            labels = expect_labels_on_responses(labels, token_type_ids, attention_mask, self.config.attention_policy)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            vision_features=vision_features,
            labels_are_checked=labels is not None,
            return_dict=True,
            **kwargs,
        )
        if labels is not None and supervised_positions is not None:
            hidden_TW = outputs.last_hidden_state.flatten(0, 1)[supervised_positions - 1]
            divisor = kwargs.get("num_items_in_batch")
            divisor = len(supervised_positions) if divisor is None else divisor
            return LossOutput(*head_loss(hidden_TW, self.lm_head, labels.flatten()[supervised_positions], divisor))
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            targets_BN = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                shift_labels=targets_BN[:, kept].contiguous(),
                vocab_size=self.config.text_config.vocab_size,
                **kwargs,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
