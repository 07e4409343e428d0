"""An unlocked model with its own processor: pictures and words in, as its users know it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers as t
from unlocked_pairs import llava, qwen2_5_vl
from vlm_processors import CHATS, SQUARE, picture, words

import mutua
from mutua.chat import roles_of
from mutua.data import Collator
from mutua.roles import TokenRoles


@pytest.fixture(params=[llava, qwen2_5_vl], ids=["llava", "qwen2_5_vl"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    torch.manual_seed(0)
    model, processor = request.param()
    yield mutua.unlock(model, processor), processor
    mutua.lock(model)


def encode(processor: Any, batch: list, side: str = "right", **options: Any) -> dict[str, Any]:
    return dict(
        processor.apply_chat_template(
            batch,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": side},
            **options,
        )
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_roles_are_those_of_the_messages(pair: tuple[Any, Any], side: str):
    model, processor = pair
    batch = [CHATS["one picture"], CHATS["two turns"], CHATS["side by side"]]
    inputs = encode(processor, batch, side)
    codes = roles_of(processor, batch, inputs).to_codes()
    with torch.no_grad():
        found, told = model(**inputs).logits, model(**inputs, token_roles=codes).logits
        causal = mutua.lock(model)(**inputs).logits
    assert torch.equal(found, told)
    assert not torch.equal(found, causal)


def test_a_question_in_one_line(pair: tuple[Any, Any]):
    model, processor = pair
    prompt = [{"role": "user", "content": [picture(SQUARE), words("is it red?")]}]
    inputs = encode(processor, [prompt], "left", add_generation_prompt=True)
    said = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    ask = t.pipeline("image-text-to-text", model=model, processor=processor)
    answer = ask(text=prompt, max_new_tokens=4, generate_kwargs={"do_sample": False}, return_full_text=False)
    wanted = processor.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer[0]["generated_text"] == wanted


SAID = [{"role": "user", "content": "is it red?"}, {"role": "assistant", "content": "yes"}]
ROWS = [{"messages": SAID, "images": [picture(size)["image"]]} for size in ((20, 20), (40, 20))]


def test_batches_of_the_collator(pair: tuple[Any, Any]):
    model, processor = pair
    batch = Collator(processor)(ROWS)
    roles = TokenRoles.from_codes(batch["token_roles"])
    learned = batch["labels"] != -100
    assert torch.equal(learned, roles.is_response_BN)
    assert "yes" in processor.decode(batch["labels"][0][learned[0]])
    model.train()
    model(**batch).loss.backward()
    model.zero_grad()
    model.eval()


@pytest.mark.slow
def test_trainer(pair: tuple[Any, Any], tmp_path: Any):
    model, processor = pair
    arguments = t.TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = t.Trainer(model, arguments, train_dataset=ROWS * 2, data_collator=Collator(processor))
    assert trainer.train().global_step == 2
    model.eval()
