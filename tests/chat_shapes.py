"""Chat templates of the shapes that are about, in few lines, and for each an oracle that knows it by heart.

An oracle gives the conversation in pieces, (text, whether the model says it), without looking at any template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from hypothesis import strategies as st
from tiny_model import assistant, picture, user
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.siglip import SiglipImageProcessorPil

from mutua.composition.tiny import train_tokenizer
from mutua.models import MutuaProcessor

Pieces = list[tuple[str, bool]]
IMAGE_TOKENS = 3

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPECIAL += ["<|begin_of_text|>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<|endoftext|>"]
CORPUS = ["USER: what is it? ASSISTANT: yes, a red one", "\n\n\n  \n", "user\nassistant\nmodel\nsystem\n[INST] [/INST]"]


def build_processor(trim_offsets: bool = False, rstrip: tuple[str, ...] = ()) -> MutuaProcessor:
    """A processor of a byte-level tokenizer that knows the special tokens of every shape here.

    Args:
        trim_offsets: as GPT-2's tokenizer, which leaves leading spaces out of offsets.
        rstrip: special tokens that swallow the whitespace behind them, as Phi-3's.
    """
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(CORPUS, vocab_size=400)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False, rstrip=t in rstrip) for t in SPECIAL])
    if rstrip:
        tokenizer.add_tokens(
            [AddedToken(t, special=True, normalized=False, rstrip=True) for t in rstrip if t not in SPECIAL]
        )
    tokenizer.eos_token, tokenizer.bos_token = "</s>", "<s>"
    if trim_offsets:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    images = SiglipImageProcessorPil(size={"height": 8, "width": 8})
    return MutuaProcessor(images, tokenizer, num_image_tokens=IMAGE_TOKENS, chat_template="{{ 'none' }}")


@dataclass(frozen=True)
class Shape:
    """A template, its oracle, and whether it has a place for a system message."""

    name: str
    template: str
    oracle: Callable[[list[tuple[str, str]], bool], Pieces]
    has_system: bool = True


def merged(pieces: Pieces) -> Pieces:
    """Neighbours of one role in one piece, empty ones left out; images as many placeholders as they have tokens."""
    kept = [(text.replace("<image>", "<image>" * IMAGE_TOKENS), said) for text, said in pieces if text]
    return [("".join(text for text, _ in group), said) for said, group in groupby(kept, key=lambda piece: piece[1])]


def plain(messages: list[dict]) -> list[tuple[str, str]]:
    """(role, text) of every message, an image as one placeholder."""
    said = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        said.append((message["role"], "".join(p["text"] if p["type"] == "text" else "<image>" for p in parts)))
    return said


CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chatml(said: list[tuple[str, str]], prompt: bool) -> Pieces:
    pieces = [] if said[0][0] == "system" else [("<|im_start|>system\nBe helpful.<|im_end|>\n", False)]
    for role, text in said:
        is_reply = role == "assistant"
        pieces += [(f"<|im_start|>{role}\n", False), (f"{text}<|im_end|>", is_reply), ("\n", False)]
    return [*pieces, ("<|im_start|>assistant\n" if prompt else "", False)]


LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def llama3(said: list[tuple[str, str]], prompt: bool) -> Pieces:
    pieces = [("<|begin_of_text|>", False)]
    for role, text in said:
        pieces.append((f"<|start_header_id|>{role}<|end_header_id|>\n\n", False))
        pieces.append((f"{text}<|eot_id|>", role == "assistant"))
    return [*pieces, ("<|start_header_id|>assistant<|end_header_id|>\n\n" if prompt else "", False)]


# Ends with another token where the chat ends, so that no chat is a beginning of a longer one.
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"
)


def phi3(said: list[tuple[str, str]], prompt: bool) -> Pieces:
    pieces = []
    for role, text in said:
        pieces += [(f"<|{role}|>\n", False), (f"{text}<|end|>", role == "assistant"), ("\n", False)]
    return [*pieces, ("<|assistant|>\n" if prompt else "<|endoftext|>", False)]


GEMMA = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def gemma(said: list[tuple[str, str]], prompt: bool) -> Pieces:
    pieces = [("<bos>", False)]
    for role, text in said:
        name = {"user": "user", "assistant": "model"}[role]
        pieces.append((f"<start_of_turn>{name}\n", False))
        pieces += [(f"{text}<end_of_turn>", role == "assistant"), ("\n", False)]
    return [*pieces, ("<start_of_turn>model\n" if prompt else "", False)]


# No header opens a reply, so add_generation_prompt adds nothing.
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\n\n' %}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' + ns.system + message['content'] + ' [/INST]' }}"
    "{% set ns.system = '' %}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def mistral(said: list[tuple[str, str]], prompt: bool) -> Pieces:
    pieces, system = [("<s>", False)], ""
    for role, text in said:
        if role == "system":
            system = f"{text}\n\n"
        elif role == "user":
            pieces.append((f"[INST] {system}{text} [/INST]", False))
            system = ""
        else:
            pieces.append((f" {text}</s>", True))
    return pieces


ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)


def zephyr(said: list[tuple[str, str]], prompt: bool) -> Pieces:
    pieces = []
    for role, text in said:
        pieces += [(f"<|{role}|>\n", False), (f"{text}</s>", role == "assistant"), ("\n", False)]
    return [*pieces, ("<|assistant|>\n" if prompt else "", False)]


VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def vicuna(said: list[tuple[str, str]], prompt: bool) -> Pieces:
    pieces = []
    for role, text in said:
        if role == "assistant":
            pieces += [("ASSISTANT:", False), (f" {text}</s>", True)]
        else:
            pieces.append((f"{text} " if role == "system" else f"USER: {text} ", False))
    return [*pieces, ("ASSISTANT:" if prompt else "", False)]


# Content in parts, as multimodal templates have it; the marks say the end token, too.
PARTS = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def bare(said: list[tuple[str, str]], prompt: bool) -> Pieces:
    pieces = []
    for role, text in said:
        pieces += [(f"<|{role}|>", False), (f"{text}<|end|>", role == "assistant")]
    return [*pieces, ("<|assistant|>" if prompt else "", False)]


SHAPES = (
    Shape("chatml", CHATML, chatml),
    Shape("llama3", LLAMA3, llama3),
    Shape("phi3", PHI3, phi3),
    Shape("gemma", GEMMA, gemma, has_system=False),
    Shape("mistral", MISTRAL, mistral),
    Shape("zephyr", ZEPHYR, zephyr),
    Shape("vicuna", VICUNA, vicuna),
    Shape("parts", PARTS, bare),
    Shape("marked", MARKED, bare),
)

# Reasoning is dropped from all turns but the last, and a last reply without any gets an empty one.
QWEN3 = (
    "{% for message in messages %}{% set text = message['content'] if message['content'] is string else '' %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% if '</think>' in text %}{% set thought, text = text.split('</think>') %}"
    "{% if loop.last %}{{ thought + '</think>' }}{% endif %}"
    "{% elif loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ text }}"
    "{% else %}{{ text }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)

# Whatever a question is, it stands behind the token that ends a reply: "A: hi" looks like a reply.
BARE_QUESTIONS = (
    "{% for message in messages %}{{ 'A:' if message['role'] == 'assistant' }}{{ message['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
)

# A date where none is given, so another text tomorrow.
CLOCK = "{% if not date is defined %}{% set date = strftime_now('%d %b %Y') %}{% endif %}{{ 'Today: ' + date }}" + PHI3

PICTURE = picture(1, 8)
TALK = [
    {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "is it red?"}]},
    assistant("yes, it\nis"),
    user("sure, and", PICTURE, "this?"),
    assistant("no"),
]

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="<|>"), min_size=1).map(
    lambda text: text.strip() or "x"
)
parts = st.lists(
    st.one_of(words.map(lambda text: {"type": "text", "text": text}), st.just({"type": "image", "image": PICTURE})),
    min_size=1,
    max_size=4,
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[dict], list[dict]]:
    """A system message or none, and one to three turns, the last answered or not."""
    system = [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    turns = []
    for _ in range(draw(st.integers(1, 3))):
        turns += [{"role": "user", "content": draw(parts)}, {"role": "assistant", "content": draw(words)}]
    return system, turns[: len(turns) - draw(st.integers(0, 1))]
