"""An unlocked model of another family in TRL's SFTTrainer: the rule holds there too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t
from datasets import Dataset
from peft import LoraConfig
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer
from unlocked_families import TEXT, VISION
from vlm_processors import FAMILIES as PROCESSORS

import mutua
from mutua.data import Collator


def fresh() -> tuple[Any, Any]:
    """As SmolVLM: Idefics3's processor and model, whose video processor is not needed."""
    torch.manual_seed(0)
    processor = next(family for family in PROCESSORS if family.name == "idefics3").make()
    config = t.Idefics3Config(
        vision_config={**VISION, "patch_size": 4},
        text_config=t.LlamaConfig(**{**TEXT, "vocab_size": len(processor.tokenizer)}),
        image_token_id=processor.image_token_id,
        scale_factor=2,
    )
    processor.image_seq_len = 4
    return mutua.unlock(t.Idefics3ForConditionalGeneration(config), processor), processor


def as_messages(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_list([{"messages": row["messages"], "images": row["images"]} for row in rows[:8]])


def arguments(kind: type, folder: Any, **more: Any) -> Any:
    common = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    return kind(**common | more)


def losses_of(trainer: Any) -> list[float]:
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def sft(folder: Any, data: Dataset, collator: Any = "ours", **more: Any) -> tuple[Any, Any]:
    model, processor = fresh()
    peft_config = more.pop("peft_config", None)
    return model, SFTTrainer(
        model,
        args=arguments(SFTConfig, folder, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, **more),
        train_dataset=data,
        processing_class=processor,
        data_collator=Collator(processor) if collator == "ours" else None,
        peft_config=peft_config,
    )


def test_sft_with_the_collator_is_trainer_with_it(rows, tmp_path):
    data = as_messages(rows)
    model, processor = fresh()
    wanted = losses_of(
        Trainer(model, arguments(TrainingArguments, tmp_path), train_dataset=data, data_collator=Collator(processor))
    )
    _, trainer = sft(tmp_path, data)
    assert losses_of(trainer) == pytest.approx(wanted, rel=1e-4)


def test_sft_with_adapters(rows, tmp_path):
    _, trainer = sft(tmp_path, as_messages(rows), peft_config=LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    assert len(losses_of(trainer)) == 4


def test_sft_as_it_comes_would_train_on_questions(rows, tmp_path):
    _, trainer = sft(tmp_path, as_messages(rows), collator=None)
    with pytest.raises(ValueError, match=r"stands on a prompt token|the loss trains what follows"):
        trainer.train()
