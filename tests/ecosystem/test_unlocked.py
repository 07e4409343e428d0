"""An unlocked model of another family in TRL's SFTTrainer: the rule holds there too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trainer_settings import arguments, losses_of
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer
from unlocked_pairs import idefics3

import mutua
from mutua.data import Collator

FOUR_STEPS: dict[str, Any] = {"max_steps": 4, "remove_unused_columns": False}


def fresh() -> tuple[Any, Any]:
    """The same weights every time."""
    torch.manual_seed(0)
    model, processor = idefics3()
    return mutua.unlock(model, processor), processor


def as_messages(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_list([{"messages": row["messages"], "images": row["images"]} for row in rows[:8]])


def sft(folder: Any, data: Dataset, has_collator: bool = True, peft_config: Any = None) -> Any:
    model, processor = fresh()
    options = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return SFTTrainer(
        model,
        args=arguments(SFTConfig, folder, **FOUR_STEPS, **options),
        train_dataset=data,
        processing_class=processor,
        data_collator=Collator(processor) if has_collator else None,
        peft_config=peft_config,
    )


def test_sft_with_the_collator_is_trainer_with_it(rows, tmp_path):
    data = as_messages(rows)
    model, processor = fresh()
    args = arguments(TrainingArguments, tmp_path, **FOUR_STEPS)
    wanted = losses_of(Trainer(model, args, train_dataset=data, data_collator=Collator(processor)))
    assert losses_of(sft(tmp_path, data)) == pytest.approx(wanted, rel=1e-4)


def test_sft_with_adapters(rows, tmp_path):
    adapters = LoraConfig(target_modules=["q_proj", "v_proj"], r=2)
    assert len(losses_of(sft(tmp_path, as_messages(rows), peft_config=adapters))) == 4


def test_sft_as_it_comes_would_train_on_questions(rows, tmp_path):
    trainer = sft(tmp_path, as_messages(rows), has_collator=False)
    with pytest.raises(ValueError, match=r"stands on a prompt token|the loss trains what follows"):
        trainer.train()
