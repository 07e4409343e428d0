"""The model: vision encoder + connector + decoder, with the attention policy applied in one place.

Roles travel in `token_type_ids` (see `mutua.roles`), the name that Transformers already slices, pads and carries
through `generate`. Shape suffixes: B batch, N tokens of this forward, K keys (cached ones included), I images,
P patches, V vision width, T text width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from mutua.attention import BACKENDS, MaskRequest, Policy, get_policy, resolve
from mutua.models.configuration import MutuaConfig
from mutua.models.connectors import CONNECTORS, PerceiverResampler
from mutua.models.head_loss import LossOutput, head_loss
from mutua.models.vision import check_feature_layer, prefix_tokens
from mutua.roles import Modality, TokenRoles, response_codes


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

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PerceiverResampler):
            nn.init.normal_(module.latents)

    def set_attn_implementation(self, attn_implementation: str | dict, allow_all_kernels: bool = False) -> None:
        """As in Transformers. A name goes to the language model (as the backend that serves it); the vision encoder
        looks at whole images and keeps its own, unless a dict says otherwise."""
        requested = (
            attn_implementation if isinstance(attn_implementation, dict) else {"text_config": attn_implementation}
        )
        if "text_config" in requested:
            requested = {**requested, "text_config": resolve(requested["text_config"])}
        super().set_attn_implementation(requested, allow_all_kernels)


class MutuaModel(MutuaPreTrainedModel):
    """Vision encoder, connector and decoder, without the language-model head."""

    def __init__(self, config: MutuaConfig) -> None:
        super().__init__(config)
        config.text_config._attn_implementation = resolve(config.text_config._attn_implementation)
        check_feature_layer(config.vision_config, config.vision_feature_layer)
        if config.vision_config._attn_implementation in BACKENDS:  # from_pretrained hands one name to all parts
            config.vision_config._attn_implementation = None
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.connector = CONNECTORS[config.connector](config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_vision_features(self, pixel_values: Tensor) -> Tensor:
        """(I, 3, H, W) pixels to (I, P, V): the patch grid, row by row, from the config's `vision_feature_layer`."""
        layer = self.config.vision_feature_layer
        out = self.vision_tower(pixel_values=pixel_values, output_hidden_states=layer != -1)
        features_INV = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
        features_IPV = features_INV[:, prefix_tokens(self.config.vision_config) :]
        if features_IPV.shape[1] != self.config.num_patches:
            raise ValueError(
                f"pixel_values of {tuple(pixel_values.shape[-2:])} pixels give {features_IPV.shape[1]} patches, but "
                f"the model takes {self.config.num_patches}: prepare the images with the model's own MutuaProcessor."
            )
        return features_IPV

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
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """See `MutuaForConditionalGeneration.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            vision_features = self.get_vision_features(pixel_values)

        roles = self._roles(input_ids, inputs_embeds, token_type_ids, vision_features is not None)
        if vision_features is not None:
            inputs_embeds = _place_images(inputs_embeds, self.connector(vision_features), roles)

        if past_key_values is not None and bool((roles.document_BN > 0).any()):
            raise ValueError("packed rows (several documents in a row) cannot be decoded with a cache: one row each.")
        policy = get_policy(self.config.attention_policy)
        if position_ids is None:
            past = 0 if past_key_values is None else past_key_values.get_seq_length()
            if past == 0 and token_type_ids is not None:
                position_ids = policy.positions(roles)
            else:
                position_ids = _positions(policy, roles, attention_mask, past)
        if past_key_values is not None and _passes_rope_switch(self.config.text_config, position_ids, past_key_values):
            raise ValueError(
                "longrope: the text now passes original_max_position_embeddings, from where on positions are encoded "
                "otherwise, so the cached keys no longer fit: run the whole text again without the cache (`generate` "
                "does so by itself)."
            )
        request = MaskRequest(roles, policy, _padding(roles, attention_mask, past_key_values))
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=request,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )

    def _roles(
        self, input_ids: Tensor | None, inputs_embeds: Tensor, token_type_ids: Tensor | None, has_images: bool
    ) -> TokenRoles:
        """The roles of this forward's tokens. Without codes only text is possible: one document, all causal."""
        is_image_BN = None if input_ids is None else input_ids == self.config.image_token_id
        if token_type_ids is None:
            if has_images or (is_image_BN is not None and bool(is_image_BN.any())):
                raise ValueError(
                    "images came without token_type_ids (the token roles), so the attention policy cannot be applied. "
                    "Prepare the inputs with MutuaProcessor.apply_chat_template and pass on all that it returns."
                )
            zeros_BN = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
            return TokenRoles(document_BN=zeros_BN, block_BN=zeros_BN - 1, modality_BN=zeros_BN, item_BN=zeros_BN - 1)
        if token_type_ids.shape != inputs_embeds.shape[:2]:
            raise ValueError(
                f"token_type_ids has shape {tuple(token_type_ids.shape)}, but the forward holds "
                f"{tuple(inputs_embeds.shape[:2])} tokens: pass the codes of exactly these tokens."
            )
        roles = TokenRoles.from_codes(token_type_ids)
        if is_image_BN is not None and not has_images and bool(is_image_BN.any()):
            raise ValueError(
                "input_ids hold image tokens, but neither pixel_values nor vision_features came with them: pass on all "
                "that MutuaProcessor.apply_chat_template returns."
            )
        if is_image_BN is not None and not torch.equal(is_image_BN, roles.modality_BN == Modality.IMAGE):
            raise ValueError(
                "token_type_ids and input_ids disagree on which tokens are images: both must come from one "
                "MutuaProcessor call (an all-zero token_type_ids from a tokenizer holds no roles)."
            )
        return roles


class MutuaForConditionalGeneration(MutuaPreTrainedModel, GenerationMixin):
    """A multimodal language model under an attention policy, as a Transformers citizen."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: MutuaConfig) -> None:
        super().__init__(config)
        self.model = MutuaModel(config)
        self.lm_head = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=config.lm_head_bias
        )
        self.post_init()

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
        label_positions: Tensor | None = None,
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
            label_positions: (T,) where the labels are that count, in `labels` flattened, no first column among them
                (`mutua.data.collate.label_positions`). With them the head is computed for these alone, and the result
                is a `LossOutput` without logits: `num_items_in_batch` divides the loss, else T does.
            logits_to_keep: as in Transformers, how many of the last positions get logits (0: all), or which; the loss
                is over these alone.

        Raises:
            ValueError: images without roles, roles that contradict `input_ids`, a label on a prompt token.
        """
        if labels is not None:
            _check_labels(labels, token_type_ids, self.config.attention_policy)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            vision_features=vision_features,
            **kwargs,
        )
        if labels is not None and label_positions is not None:
            hidden_TW = outputs.last_hidden_state.flatten(0, 1)[label_positions - 1]
            divisor = kwargs.get("num_items_in_batch", len(label_positions))
            return LossOutput(*head_loss(hidden_TW, self.lm_head, labels.flatten()[label_positions], divisor))
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

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers, all but `prefill_chunk_size`: a prefill cut inside a block would lose look-ahead."""
        config = kwargs.get("generation_config") or self.generation_config
        chunk = kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if chunk is not None:
            raise ValueError(
                f"prefill_chunk_size={chunk} would cut prompt blocks, and images could no longer see the question "
                "that follows them: leave it out."
            )
        if (codes_BN := kwargs.get("token_type_ids")) is not None:
            kwargs["prompt_length"] = codes_BN.shape[1]
        return super().generate(*args, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, prompt_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As in Transformers, which lengthens `token_type_ids` by repeating the last code. What comes after the prompt
        is the model's (or, in assisted decoding, a guess at it): responses, never part of a block."""
        codes_BN = kwargs.get("token_type_ids")
        if codes_BN is not None and prompt_length is not None:
            new_BN = response_codes(codes_BN[:, prompt_length - 1 : prompt_length]).expand_as(
                codes_BN[:, prompt_length:]
            )
            kwargs["token_type_ids"] = torch.cat([codes_BN[:, :prompt_length], new_BN], dim=1)
        cache, positions_BN = kwargs.get("past_key_values"), kwargs.get("position_ids")
        tokens = kwargs.get("next_sequence_length") or input_ids.shape[1]
        again: dict[str, Any] = {}
        if cache is not None and positions_BN is not None:
            now_BN = positions_BN[:, -tokens:]
            if _passes_rope_switch(self.config.text_config, now_BN, cache):
                # As Transformers' Phi-3 does; the images come again with the text that holds them.
                kwargs |= {"past_key_values": None, "next_sequence_length": None}
                again = {key: kwargs[key] for key in ("pixel_values", "vision_features") if key in kwargs}
        return {**super().prepare_inputs_for_generation(input_ids, **kwargs), **again}

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        # Beams: Transformers repeats every tensor row by row, but a row may own several images, or none.
        images = {key: model_kwargs.pop(key, None) for key in ("pixel_values", "vision_features")}
        if expand_size > 1 and any(value is not None for value in images.values()):
            is_image_BN = TokenRoles.from_codes(model_kwargs["token_type_ids"]).modality_BN == Modality.IMAGE
            counts = (is_image_BN.sum(-1) // self.config.num_image_tokens).tolist()
            for key, value in images.items():
                if value is not None:
                    images[key] = torch.cat(
                        [own.repeat(expand_size, *[1] * (own.ndim - 1)) for own in value.split(counts)]
                    )
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **{key: value for key, value in images.items() if value is not None}}

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None, **kwargs: Any) -> Tensor | None:
        """`generate` asks for a finished mask when the cache is static; ours is built in `forward`, for every cache."""
        return attention_mask

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        # Some policies number the tokens of an image in their own way; the roles of the whole text so far tell how.
        codes_BN, policy = model_kwargs.get("token_type_ids"), get_policy(self.config.attention_policy)
        if codes_BN is None or policy.within_item != "rings":
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        if codes_BN.shape != model_kwargs["attention_mask"].shape:
            raise ValueError(
                f"policy {policy.name!r} needs the roles of the cached text to go on from it: pass input_ids and "
                "token_type_ids of the whole conversation, as the processor returns them."
            )
        return policy.positions(TokenRoles.from_codes(codes_BN))


def _place_images(inputs_embeds_BNT: Tensor, image_tokens_IPT: Tensor, roles: TokenRoles) -> Tensor:
    """Puts the visual tokens where the roles say image, in order of appearance."""
    is_image_BN = roles.modality_BN == Modality.IMAGE
    expected, given = int(is_image_BN.sum()), image_tokens_IPT.shape[0] * image_tokens_IPT.shape[1]
    if expected != given:
        raise ValueError(
            f"the prompt holds {expected} image tokens, but {image_tokens_IPT.shape[0]} images give {given} "
            f"({image_tokens_IPT.shape[1]} each): pass one image per placeholder."
        )
    return inputs_embeds_BNT.masked_scatter(is_image_BN[..., None], image_tokens_IPT.to(inputs_embeds_BNT.dtype))


def _positions(policy: Policy, roles: TokenRoles, attention_mask_BK: Tensor | None, past: int) -> Tensor:
    """Positions by the attention mask, padding not counted: of what follows cached text, or of text without roles."""
    if policy.within_item == "rings" and past > 0:
        raise ValueError(
            f"policy {policy.name!r} gives an image fewer positions than tokens, so where cached text ends is not "
            "known: pass position_ids (`generate` does so by itself)."
        )
    tokens = roles.document_BN.shape[1]
    if attention_mask_BK is not None:
        return (attention_mask_BK.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens:]
    return torch.arange(past, past + tokens, device=roles.document_BN.device)[None].expand(
        roles.document_BN.shape[0], -1
    )


def _passes_rope_switch(text_config: Any, position_ids_BN: Tensor, cache: Cache) -> bool:
    """Whether the cached keys were encoded with longrope's short factors and this forward takes the long ones."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope" or cache.get_seq_length() == 0:
        return False
    switch = rope["original_max_position_embeddings"]
    return int(position_ids_BN[:, 0].max()) <= switch <= int(position_ids_BN.max())


def _padding(roles: TokenRoles, attention_mask_BK: Tensor | None, cache: Cache | None) -> Tensor | None:
    """Which keys are real, (B, K) bool: by the attention mask, or without one (and without a cache) by the roles."""
    if attention_mask_BK is not None:
        if attention_mask_BK.ndim != 2:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask_BK.shape)}: pass a (batch, tokens) mask of padding; "
                "which token sees which follows from token_type_ids and the attention policy."
            )
        return attention_mask_BK.bool()
    if cache is not None and cache.get_seq_length() > 0:
        return None
    is_token_BN = roles.is_token_BN
    return None if bool(is_token_BN.all()) else is_token_BN


def _check_labels(labels_BN: Tensor, token_type_ids: Tensor | None, policy: str) -> None:
    """A prompt token may be visible to its own past under a look-ahead policy, so it must not be predicted."""
    if token_type_ids is None or get_policy(policy).is_causal:
        return
    roles = TokenRoles.from_codes(token_type_ids)
    is_leak_BN = (labels_BN != -100) & ~roles.is_response_BN
    if bool(is_leak_BN.any()):
        row, column = (int(i) for i in is_leak_BN.nonzero()[0])
        raise ValueError(
            f"label {int(labels_BN[row, column])} at row {row}, token {column} stands on a prompt token, which policy "
            f"{policy!r} may show to its own past: set labels to -100 outside the responses, or train with 'causal'."
        )
