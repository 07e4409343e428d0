"""20 steps in Transformers' and TRL's trainers: the losses of `mutua train`, or the rule by perturbation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from reference_run import STEPS, fresh, losses_of_mutua_train, order
from trainer_settings import arguments, losses_of
from transformers import Trainer, TrainingArguments
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from mutua.data import Collator
from mutua.roles import TokenRoles


@pytest.fixture(scope="module")
def reference(rows, tmp_path_factory) -> tuple[list[float], list[int]]:
    """The losses of `mutua train`, and which row was met when."""
    return losses_of_mutua_train(rows, tmp_path_factory.mktemp("reference")), order(rows)


def in_order(rows: list[dict[str, Any]], order: list[int]) -> Dataset:
    return Dataset.from_list([rows[index] for index in order])


class InOrder:
    """Takes the rows as they stand."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class TrainerInOrder(InOrder, Trainer):
    pass


class SFTInOrder(InOrder, SFTTrainer):
    pass


def test_trainer(rows, reference, tmp_path):
    losses, order = reference
    model, processor = fresh()
    trainer = TrainerInOrder(
        model,
        arguments(TrainingArguments, tmp_path, remove_unused_columns=False),
        train_dataset=in_order(rows, order),
        data_collator=Collator(processor),
    )
    assert losses_of(trainer) == pytest.approx(losses, abs=2e-4, rel=2e-5)


@pytest.mark.parametrize("form", ["rows", "rows_of_parts"])
@pytest.mark.parametrize("way", ["assistant_only_loss", "collator", "prompt and completion"])
def test_sft(form, way, request, reference, tmp_path):
    losses, order = reference
    model, processor = fresh()
    data = in_order(request.getfixturevalue(form), order)
    options: dict[str, Any] = {}
    if way == "collator":
        options = {"data_collator": Collator(processor)}
    if way == "prompt and completion":
        data = data.map(lambda row: {"prompt": row["messages"][:1], "completion": row["messages"][1:]})
        data = data.remove_columns("messages")
    args = arguments(SFTConfig, tmp_path, max_length=None, assistant_only_loss=way == "assistant_only_loss")
    trainer = SFTInOrder(model, args=args, train_dataset=data, processing_class=processor, **options)
    assert losses_of(trainer) == pytest.approx(losses, abs=2e-4, rel=2e-5)


@pytest.mark.parametrize("way", ["padding_free", "packing"])
def test_sft_of_packed_texts_is_that_of_separate_ones(way, rows, tmp_path):
    """Rows in one: no mask, no roles, and positions that begin anew."""
    texts = Dataset.from_list([{"messages": row["messages"]} for row in rows])
    losses = []
    for packed in (False, True):
        model, processor = fresh()
        options: dict[str, Any] = {"max_length": None, "assistant_only_loss": True, "max_steps": 3}
        options["per_device_train_batch_size"] = len(rows)  # all of them, in whatever order and rows
        if packed:
            options |= {"padding_free": True} if way == "padding_free" else {"packing": True, "max_length": 64}
        trainer = SFTInOrder(
            model, args=arguments(SFTConfig, tmp_path, **options), train_dataset=texts, processing_class=processor
        )
        losses.append(losses_of(trainer))
    assert losses[1] == pytest.approx(losses[0], abs=2e-4, rel=2e-5)


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing_factor": 0.1}, {"loss_type": "dft"}, {"torch_compile": True}]
)
def test_sft_as_it_comes_would_train_on_prompts(options, rows, tmp_path):
    model, processor = fresh()
    if "torch_compile" in options:
        torch._dynamo.reset()
        options = {**options, "torch_compile_backend": "aot_eager"}
    args = arguments(SFTConfig, tmp_path, max_length=None, **options)
    trainer = SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=processor)
    with pytest.raises(ValueError, match="assistant_only_loss=True"):
        trainer.train()


def test_sft_with_lora_as_it_comes_would_train_on_prompts(rows, tmp_path):
    from peft import LoraConfig

    model, processor = fresh()
    trainer = SFTTrainer(
        model,
        args=arguments(SFTConfig, tmp_path, max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
        peft_config=LoraConfig(target_modules=["q_proj"]),
    )
    with pytest.raises(ValueError, match="assistant_only_loss=True"):
        trainer.train()


def test_sft_that_cuts_all_replies_off(rows, tmp_path):
    model, processor = fresh()
    args = arguments(SFTConfig, tmp_path, max_length=20, assistant_only_loss=True)
    trainer = SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=processor)
    with pytest.raises(ValueError, match="max_length=20 cuts off every reply"):
        trainer.train()


class Watched:
    """Keeps what the model was given in training."""

    def __init__(self, model: Any) -> None:
        self.seen: list[dict[str, Any]] = []
        model.model.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and kwargs.get("pixel_values") is not None:  # not where it answers
            names = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
            given = {name: kwargs.get(name) for name in names}
            self.seen.append({name: value.detach().clone() for name, value in given.items() if value is not None})


def expect_the_rule(model: Any, seen: list[dict[str, Any]]) -> None:
    """No state moves with a later response token, and the image's move with the question."""
    model = model.eval()
    assert seen
    with torch.no_grad():
        for inputs in seen[:3]:
            roles = TokenRoles.from_codes(inputs["token_type_ids"], inputs.get("attention_mask"))
            before = model.model(**inputs).last_hidden_state
            for row in range(len(inputs["input_ids"])):
                responses = roles.is_response_BN[row].nonzero()[:, 0]
                assert len(responses)
                for place in responses:
                    ids = inputs["input_ids"].clone()
                    ids[row, place] = 9 if ids[row, place] != 9 else 10
                    moved = (model.model(**{**inputs, "input_ids": ids}).last_hidden_state - before).abs().amax(-1)
                    assert float(moved[row, :place].max()) < 1e-6
                    assert float(moved[row, place]) > 1e-3
            first = (roles.modality_BN == 1).int().argmax(-1)
            text = inputs["input_ids"].clone()
            last = (roles.modality_BN == 1).shape[1] - 1 - (roles.modality_BN == 1).int().flip(-1).argmax(-1)
            for row, place in enumerate(last.tolist()):
                text[row, place + 1] = 9 if text[row, place + 1] != 9 else 10
            moved = (model.model(**{**inputs, "input_ids": text}).last_hidden_state - before).abs().amax(-1)
            for row, place in enumerate(first.tolist()):
                assert float(moved[row, place]) > 1e-4


def preferences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": row["messages"][:1],
            "chosen": row["messages"][1:],
            "rejected": [{"role": "assistant", "content": "the circle"}],
            "images": row["images"],
        }
        for row in rows
    ]


def test_dpo(rows, tmp_path):
    model, processor = fresh()
    watched = Watched(model)
    args = arguments(DPOConfig, tmp_path, max_length=None)
    data = Dataset.from_list(preferences(rows))
    trainer = DPOTrainer(model, fresh()[0], args=args, train_dataset=data, processing_class=processor)
    losses = losses_of(trainer)
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < sum(losses[:5])
    expect_the_rule(model, watched.seen)


def test_dpo_that_cuts_all_replies_off(rows, tmp_path):
    """The loss would stay at log 2."""
    model, processor = fresh()
    args = arguments(DPOConfig, tmp_path, max_length=20)
    data = Dataset.from_list(preferences(rows))
    trainer = DPOTrainer(model, fresh()[0], args=args, train_dataset=data, processing_class=processor)
    with pytest.raises(ValueError, match="holds no reply, so nothing is learned from it"):
        trainer.train()


def test_kto(rows, tmp_path):
    model, processor = fresh()
    before = model.lm_head.weight.clone()
    watched = Watched(model)
    data = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": nth % 2 == 0, "images": row["images"]}
        for nth, row in enumerate(preferences(rows))
    ]
    args = arguments(KTOConfig, tmp_path, max_length=None)
    trainer = KTOTrainer(
        model, fresh()[0], args=args, train_dataset=Dataset.from_list(data), processing_class=processor
    )
    assert len(losses_of(trainer)) == STEPS
    assert not torch.equal(model.lm_head.weight, before)
    expect_the_rule(model, watched.seen)


@pytest.mark.parametrize(("kind", "config"), [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)])
def test_policy_gradients(kind, config, rows, tmp_path):
    model, processor = fresh()
    before = model.lm_head.weight.clone()
    watched = Watched(model)

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [float(len(completion[0]["content"])) for completion in completions]

    args = arguments(config, tmp_path, num_generations=2, max_completion_length=6, beta=0.0)
    data = Dataset.from_list([{"prompt": row["messages"][:1], "images": row["images"]} for row in rows])
    trainer = kind(model, reward_funcs=reward, args=args, train_dataset=data, processing_class=processor)
    assert len(losses_of(trainer)) == STEPS
    assert not torch.equal(model.lm_head.weight, before)
    expect_the_rule(model, watched.seen)
