"""What other people's trainers would do wrong without a word: forwards, rows and options as they make them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import assistant, make_model, make_processor, picture, user
from torch import Tensor
from what_users_read import Mistake, check, rows

from mutua.data import Collator, sample_from_row
from mutua.roles import TokenRoles

CHAT = [user(picture(1), "is it red?"), assistant("yes no")]


def inputs_of(chat: list[dict[str, Any]], policy: str = "mma", **options: Any) -> tuple[Any, dict[str, Tensor]]:
    model = make_model(policy)
    out = make_processor(model).apply_chat_template(
        [chat], tokenize=True, return_dict=True, return_tensors="pt", **options
    )
    return model.train(), dict(out)


def fused_loss(model: Any, inputs: dict[str, Tensor], labels_BN: Tensor) -> Tensor:
    """As TRL computes it: the base model's states, and the head on its own. No forward of ours sees a label."""
    hidden_BNT = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    logits_BNV = hidden_BNT @ model.get_output_embeddings().weight.T
    return torch.nn.functional.cross_entropy(logits_BNV.flatten(0, 1), labels_BN[:, 1:].flatten(), ignore_index=-100)


def all_tokens(inputs: dict[str, Tensor]) -> Tensor:
    return inputs["input_ids"].clone()


def replies(inputs: dict[str, Tensor]) -> Tensor:
    roles = TokenRoles.from_codes(inputs["token_type_ids"], inputs["attention_mask"])
    return torch.where(roles.is_response_BN, inputs["input_ids"], -100)


def one_more(inputs: dict[str, Tensor]) -> Tensor:
    """The replies, and the last token of the question's header."""
    labels_BN = replies(inputs)
    first = int((labels_BN[0] != -100).int().argmax())
    labels_BN[0, first - 1] = inputs["input_ids"][0, first - 1]
    return labels_BN


def by_fused_head(labels: Callable[[dict[str, Tensor]], Tensor], **changes: Any) -> Callable[[Path], Any]:
    def do(_: Path) -> Any:
        model, inputs = inputs_of(CHAT)
        return fused_loss(model, inputs | changes, labels(inputs)).backward()

    return do


def by_forward(labels: Callable[[dict[str, Tensor]], Tensor]) -> Callable[[Path], Any]:
    def do(_: Path) -> Any:
        model, inputs = inputs_of(CHAT)
        return model(**inputs, labels=labels(inputs))

    return do


def compiled_by_fused_head(labels: Callable[[dict[str, Tensor]], Tensor]) -> Callable[[Path], Any]:
    def do(_: Path) -> Any:
        torch._dynamo.reset()
        model, inputs = inputs_of(CHAT)
        model.model.compile(backend="aot_eager", fullgraph=True)
        return fused_loss(model, inputs, labels(inputs)).backward()

    return do


def compiled(**changes: Any) -> Callable[[Path], Any]:
    """A compiled training step; a change is an argument of forward, or what makes it of the inputs."""

    def do(_: Path) -> Any:
        torch._dynamo.reset()
        model, inputs = inputs_of(CHAT)
        model.compile(backend="aot_eager", fullgraph=True)
        given = {name: change(inputs) if callable(change) else change for name, change in changes.items()}
        return model(**{**inputs, "labels": replies(inputs), "use_cache": False, **given}).loss.backward()

    return do


def cut_behind_the_processor(_: Path) -> Any:
    """As TRL's DPOTrainer cuts prompts and completions, joined by then."""
    model, inputs = inputs_of(CHAT)
    first = int(replies(inputs)[0].ne(-100).int().argmax())
    cut = {name: tensor if name == "pixel_values" else tensor[:, :first] for name, tensor in inputs.items()}
    return fused_loss(model, cut, torch.full_like(cut["input_ids"], -100)).backward()


def with_lora(_: Path) -> Any:
    from peft import LoraConfig, get_peft_model

    model, inputs = inputs_of(CHAT)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    return fused_loss(adapted.get_base_model(), inputs, all_tokens(inputs)).backward()


def prompt_tuned(config: str, chat: list[dict[str, Any]], **options: Any) -> tuple[Any, dict[str, Tensor]]:
    import peft

    model, inputs = inputs_of(chat, **options)
    return peft.get_peft_model(model, getattr(peft, config)(num_virtual_tokens=2, task_type="CAUSAL_LM")), inputs


def with_prompt_learning(config: str) -> Callable[[Path], Any]:
    def do(_: Path) -> Any:
        tuned, inputs = prompt_tuned(config, CHAT)
        return tuned(**inputs, labels=replies(inputs))

    return do


def answers_by_prompt_tuning(_: Path) -> Any:
    tuned, inputs = prompt_tuned("PromptTuningConfig", CHAT[:1], add_generation_prompt=True)
    return tuned.generate(**inputs, max_new_tokens=3)


def by_auto_peft(place: Path) -> Any:
    from peft import AutoPeftModel, LoraConfig, get_peft_model

    model = make_model()
    model.save_pretrained(place / "base")
    adapted = get_peft_model(type(model).from_pretrained(place / "base"), LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(place / "adapter")
    return AutoPeftModel.from_pretrained(place / "adapter")


def with_an_assistant(_: Path) -> Any:
    model, inputs = inputs_of(CHAT[:1], add_generation_prompt=True)
    return model.generate(**inputs, assistant_model=make_model(), max_new_tokens=3)


def raw_text(_: Path) -> Any:
    """A prompt and its completion joined, with a picture: one prompt block."""
    model = make_model("mma").train()
    inputs = dict(make_processor(model)(text="<image>is it red? yes", images=[picture(1)], return_tensors="pt"))
    return fused_loss(model, inputs, all_tokens(inputs)).backward()


def outside_in_evaluation_mode(_: Path) -> Any:
    """As a loaded model is, where nobody calls train(): Lightning does not."""
    model, inputs = inputs_of(CHAT)
    logits_NV = model.eval()(**inputs).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits_NV, inputs["input_ids"][0, 1:]).backward()


def without_roles(_: Path) -> Any:
    model, inputs = inputs_of(CHAT)
    del inputs["token_type_ids"]
    return model(**inputs, labels=all_tokens(inputs))


def truncated(length: int) -> Callable[[Path], Any]:
    options = {"processor_kwargs": {"truncation": True, "max_length": length, "padding_side": "right"}}
    return lambda _: inputs_of(CHAT, **options)


def collated(*rows: dict[str, Any], max_tokens: int | None = None) -> Callable[[Path], Any]:
    return lambda _: Collator(make_processor(make_model()), max_tokens)(rows)


def predicts_by_generate(place: Path) -> Any:
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    model = make_model()
    arguments = Seq2SeqTrainingArguments(
        str(place), report_to=[], use_cpu=True, predict_with_generate=True, remove_unused_columns=False
    )
    trainer = Seq2SeqTrainer(model, arguments, data_collator=Collator(make_processor(model)))
    return trainer.predict([{"messages": [ASKED, SAID], "images": [picture(1)]}])


def row(**columns: Any) -> Callable[[Path], Any]:
    return lambda _: sample_from_row(columns, "row 3")


SAID = {"role": "assistant", "content": "yes"}
ASKED = {"role": "user", "content": "is it red?"}
TRAINED = "which is no response: policy 'mma' may have shown it to its own past"

MISTAKES = [
    Mistake("labels on all tokens, in a fused head", by_fused_head(all_tokens), (TRAINED, "assistant_only_loss=True")),
    Mistake("one label too many, in a fused head", by_fused_head(one_more), (TRAINED, "row 0, token")),
    Mistake("labels on all tokens, under LoRA", with_lora, (TRAINED, "mutua.data.Collator(processor)")),
    Mistake("a loss over all tokens, in evaluation mode", outside_in_evaluation_mode, (TRAINED, "responses alone")),
    Mistake("labels on all tokens", by_forward(all_tokens), ("stands on a prompt token", "assistant_only_loss=True")),
    Mistake("one label too many", by_forward(one_more), ("stands on a prompt token", "-100 outside the responses")),
    Mistake("question and answer in one raw text", raw_text, (TRAINED, "pass messages")),
    Mistake(
        "labels on all tokens, in a fused head, compiled", compiled_by_fused_head(all_tokens), (TRAINED,), is_slow=True
    ),
    Mistake("labels on all tokens, compiled", compiled(labels=all_tokens), ("stands on a prompt token",)),
    Mistake(
        "roles dropped, compiled",
        compiled(token_type_ids=None, labels=None),
        ("images came without",),
        is_slow=True,
    ),
    Mistake(
        "a tokenizer's codes, compiled",
        compiled(token_type_ids=lambda inputs: torch.zeros_like(inputs["token_type_ids"]), labels=None),
        ("token_type_ids and input_ids disagree",),
        is_slow=True,
    ),
    Mistake(
        "more pictures than places, compiled",
        compiled(pixel_values=lambda inputs: inputs["pixel_values"].repeat(2, 1, 1, 1)),
        ("the prompt holds 16 image tokens, but 2 images give 32",),
        is_slow=True,
    ),
    Mistake("roles dropped", without_roles, ("images came without token_type_ids", "pass on all that it returns")),
    Mistake("prompt tuning", with_prompt_learning("PromptTuningConfig"), ("images came without", "use LoRA")),
    Mistake("prefix tuning", with_prompt_learning("PrefixTuningConfig"), ("images came without", "use LoRA")),
    Mistake("answers by prompt tuning", answers_by_prompt_tuning, ("images came, and PEFT's prompt", "use LoRA")),
    Mistake("AutoPeftModel", by_auto_peft, ("import_allowlist=['mutua.models.modeling']",)),
    Mistake(
        "an assistant model and a picture", with_an_assistant, ("hands the assistant no pictures", "prompt_lookup")
    ),
    Mistake("replies cut off", truncated(20), ("max_length=20 cuts off every reply of text 0", "raise max_length")),
    Mistake(
        "replies cut off behind the processor",
        cut_behind_the_processor,
        ("row 0 of the batch holds no reply", "Raise max_length"),
    ),
    Mistake("a picture cut", truncated(9), ("Mismatch in `image` token count", "max_length")),
    Mistake("predict_with_generate", predicts_by_generate, ("generate was given labels", "`mutua eval`")),
    Mistake(
        "a collator of a tokenizer",
        lambda _: Collator(make_processor(make_model()).tokenizer),  # type: ignore[arg-type]
        ("Collator takes the model's processor", "only it tells replies from prompts"),
    ),
    Mistake("a row without a reply", collated({"messages": [ASKED]}), ("holds no reply to learn from",)),
    Mistake("a row too long", collated({"messages": [ASKED, SAID]}, max_tokens=3), ("max_tokens allows 3",)),
    Mistake("a row of other columns", collated({"question": "?"}), ("row 0 of the batch", "question")),
    Mistake(
        "more pictures than places", row(messages=[ASKED | {"content": "<image>?"}], images=[picture(1)] * 2), ("2",)
    ),
    Mistake("a place without a picture", row(messages=[ASKED | {"content": "<image>?"}, SAID]), ("row 3",)),
    Mistake("preferences", row(prompt=[ASKED], chosen=[SAID], rejected=[SAID]), ("row 3: chosen", "remove the column")),
    Mistake("a video", row(messages=[ASKED, SAID], videos=["a.mp4"]), ("row 3: videos", "no place for it")),
]


@rows(MISTAKES)
def test_trainers(mistake, tmp_path):
    check(mistake, tmp_path)


@pytest.mark.parametrize("policy", ["mma", "causal"])
def test_replies_alone_may_be_trained_on_anywhere(policy):
    model, inputs = inputs_of(CHAT, policy)
    fused_loss(model, inputs, replies(inputs)).backward()
    mine = model.lm_head.weight.grad.clone()
    model.zero_grad()
    model(**inputs, labels=replies(inputs)).loss.backward()
    torch.testing.assert_close(model.lm_head.weight.grad, mine)


def test_a_causal_model_may_be_trained_on_all_tokens():
    model, inputs = inputs_of(CHAT, "causal")
    fused_loss(model, inputs, all_tokens(inputs)).backward()


def test_a_loss_that_is_not_finite_is_for_the_trainer_to_tell():
    model, inputs = inputs_of(CHAT)
    (fused_loss(model, inputs, replies(inputs)) * float("nan")).backward()


def test_without_a_head_any_state_may_be_trained():
    """As an embedding, say: nothing is predicted from it."""
    from mutua.models import MutuaModel

    whole, inputs = inputs_of(CHAT)
    model = MutuaModel(whole.config).train()
    model(**inputs).last_hidden_state.mean().backward()


@pytest.mark.parametrize("way", ["labels", pytest.param("a fused head", marks=pytest.mark.slow)])
def test_replies_alone_may_be_trained_on_compiled(way):
    torch._dynamo.reset()
    model, inputs = inputs_of(CHAT)
    network = torch.compile(model if way == "labels" else model.model, backend="aot_eager", fullgraph=True)
    if way == "labels":
        network(**inputs, labels=replies(inputs), use_cache=False).loss.backward()
    else:
        hidden_BNT = network(**inputs, use_cache=False).last_hidden_state[:, :-1]
        logits_BNV = hidden_BNT @ model.lm_head.weight.T
        torch.nn.functional.cross_entropy(logits_BNV.flatten(0, 1), replies(inputs)[:, 1:].flatten()).backward()
    mine = model.lm_head.weight.grad.clone()
    model.zero_grad()
    fused_loss(model, inputs, replies(inputs)).backward()
    torch.testing.assert_close(mine, model.lm_head.weight.grad)


def test_the_last_hidden_state_is_watched_by_either_name():
    model, inputs = inputs_of(CHAT)
    states = model.model(**inputs, output_hidden_states=True, use_cache=False)
    assert states.hidden_states[-1] is states.last_hidden_state


def test_smoothed_labels_are_of_the_token_after(tmp_path):
    """Trainer knows by the name of a model's class whether to shift them."""
    from transformers import Trainer, TrainingArguments

    model, inputs = inputs_of(CHAT, "causal")
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, label_smoothing_factor=1e-9)
    loss = Trainer(model, arguments).compute_loss(model, {**inputs, "labels": replies(inputs)})
    torch.testing.assert_close(loss, model(**inputs, labels=replies(inputs)).loss)


def test_a_collator_goes_to_the_workers_of_a_data_loader():
    processor = make_processor(make_model())
    sent = pickle.loads(pickle.dumps(Collator(processor)))
    row = {"messages": [ASKED, SAID], "images": [picture(1)]}
    for name, tensor in Collator(processor)([row]).items():
        assert torch.equal(sent([row])[name], tensor), name


def test_prompt_tuning_answers_texts():
    """There is no picture whose role could be lost."""
    tuned, inputs = prompt_tuned("PromptTuningConfig", [user("is it red?")], add_generation_prompt=True)
    assert tuned.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


def test_auto_peft_opens_what_it_is_told_to_trust(tmp_path):
    from peft import AutoPeftModel

    with pytest.raises(ValueError, match="import_allowlist"):
        by_auto_peft(tmp_path)
    _, inputs = inputs_of(CHAT[:1])
    loaded = AutoPeftModel.from_pretrained(tmp_path / "adapter", import_allowlist=["mutua.models.modeling"])
    assert torch.isfinite(loaded(**inputs).logits).all()
