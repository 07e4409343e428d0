"""What a judge is asked for: VLMEvalKit's five tasks, as of March 2025, in Mutua's own words.

Each function gives what was found and why nothing was: exactly one of the two is there, and a reply of which nothing
was found has no score. (VLMEvalKit gives it one: an option drawn at random, 0 of MM-Vet's points, -1 of LLaVA-Bench's.)
Temperatures, limits and numbers of tries are VLMEvalKit's, whose judges in the paper's time were gpt-3.5-turbo-0125
for yes/no and options, gpt-4o-mini-2024-07-18 for MathVista and gpt-4-1106-preview for MM-Vet and LLaVA-Bench.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mutua.evaluation.extraction import option, yes_no
from mutua.evaluation.judge.client import Judge, JudgeError

PROMPTS = "VLMEvalKit's tasks in Mutua's words, 2"
"""Which prompts judges were asked with: for reports. Other words are another number."""

UNKNOWN = "Unknown"
"""What `judged_yes_no` gives for a reply that means neither yes nor no."""

T = TypeVar("T")

_RISING = (0.0, 0.5, 1.0, 1.5, 2.0)  # temperatures
_CHINESE = re.compile(r"[\u4e00-\u9fff]")

_YES_NO = """\
Somebody answered a yes/no question in their own words. Say which of the two they mean.
Reply with one word and nothing else: Yes, No, or Unknown if the answer means neither.

Question: Is there a bicycle in the picture?
Answer: A bicycle leans against the wall.
Meant: Yes

Question: Is there a bicycle in the picture?
Answer: I can only see cars.
Meant: No

Question: Is there a bicycle in the picture?
Answer: The sky is blue.
Meant: Unknown

Question: {question}
Answer: {reply}
Meant:"""

_OPTION = """\
Somebody answered a multiple-choice question in their own words. Say which option they mean.
Reply with one capital letter and nothing else: the letter of the option that means the same as the answer, or Z if \
none does, or if the answer refuses, or picks several.

Question: What is on the table?
Options: A. a jug B. a plate C. a knife
Answer: I can see a large dish.
Option: B

Question: What is on the table?
Options: A. a jug B. a plate C. a knife
Answer: A vase of flowers.
Option: Z

Question: {question}
Options: {options}
Answer: {reply}
Option:"""

# For questions with a Chinese character in them, as VLMEvalKit has a prompt of its own for these.
_OPTION_CHINESE = """\
有人用自己的话回答了一道单选题。请指出答案的意思是哪个选项。
只输出一个大写字母: 与答案意思相同的选项的字母; 如果没有这样的选项, 或者答案拒绝回答, 或者答案选了多个选项, 则输出 Z。

问题: 桌子上有什么?
选项: A. 水壶 B. 盘子 C. 刀
答案: 我看到一个很大的碟子。
选项: B

问题: 桌子上有什么?
选项: A. 水壶 B. 盘子 C. 刀
答案: 一瓶花。
选项: Z

问题: {question}
选项: {options}
答案: {reply}
选项:"""

_ANSWER = """\
A model replied to a question. Copy the final answer out of its reply, in the form that the hint asks for, and write \
nothing else: a number without its unit, a list as a Python list, or the letter of an option.

Hint: Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.
Question: How many legs do the two stools have together?
Reply: Each stool stands on three legs, so together they have 6.
Answer: 6

Hint: Please answer the question requiring a floating-point number with two decimal places and provide the final \
value, e.g., 1.23, 1.34, 1.45, at the end.
Question: What does the pear weigh? (Unit: kg)
Reply: The scales show 0.18 kg.
Answer: 0.18

Hint: Please answer the question requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], at \
the end.
Question: In which two months did it rain most?
Reply: It rained most in the 4th and in the 11th month.
Answer: [4, 11]

Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.
Question: Which angle is a right one?
Choices: (A) the first (B) the second
Reply: The second angle measures 90 degrees.
Answer: B

{query}
Reply: {reply}
Answer:"""

_GRADE = """\
Grade how right a prediction is, against what is known to be true, in steps of 0.1 from 0.0 (all wrong) to 1.0 (all \
right). Where the truth has parts joined by <AND>, a prediction needs all of them for 1.0; where it has parts joined \
by <OR>, any one of them. Fill in the last cell of the last row with the grade, and write nothing else.

Question | Truth | Prediction | Grade
--- | --- | --- | ---
Which numbers are on the dice? | 2 <AND> 6 | 2 and 6 | 1.0
Which numbers are on the dice? | 2 <AND> 6 | There is a 6. | 0.5
Which numbers are on the dice? | 2 <AND> 6 | 1 and 3 | 0.0
What is the animal? | otter <OR> Lutra lutra | an otter | 1.0
What happens here? | A waiter slips on a wet floor and drops a tray of glasses. | A waiter is carrying glasses. | 0.3
{question} | {truth} | {reply} |"""

_PAIR_SYSTEM = "You grade answers fairly and exactly."
_PAIR = """\
[Context]
{caption}

[Question]
{question}

[Answer 1]
{reference}

[Answer 2]
{reply}

[Task]
Two assistants answered a question about a picture; the context above describes that picture in words. Grade how \
helpful, relevant, accurate and detailed each answer is, on a scale from 1 (worst) to 10 (best). The order of the \
answers must not matter.
The first line of your reply holds two numbers and nothing else, with a space between them: the grade of answer 1, \
then that of answer 2. Say from the second line on what they rest on."""


def judged_yes_no(judge: Judge, question: str, reply: str) -> tuple[str | None, str]:
    """What a reply means that `yes_no` cannot read: "Yes", "No", or `UNKNOWN`.

    A judge that says Unknown is asked again, up to five times: it is the last try that tells.
    """
    prompt = _YES_NO.format(question=question, reply=reply)

    def unknown(said: str) -> str | None:
        return UNKNOWN if UNKNOWN.lower() in said.lower() else None

    return _found(judge, prompt, yes_no, "yes, no or unknown", _RISING, at_last=unknown)


def judged_option(judge: Judge, question: str, choices: Mapping[str, str], reply: str) -> tuple[str | None, str]:
    """Which option a reply means that `option` cannot read: a letter, or `NO_OPTION` if the judge says that none is."""
    options = " ".join(f"{letter}. {wording}" for letter, wording in choices.items())
    template = _OPTION_CHINESE if _CHINESE.search(question) else _OPTION
    prompt = template.format(question=question, options=options, reply=reply)
    return _found(judge, prompt, lambda said: option(said, choices), "one of the options or Z", (0.0, 0.0, 0.0))


def judged_answer(judge: Judge, query: str, reply: str) -> tuple[str | None, str]:
    """The final answer in a reply to a question of MathVista, for `free_form` or `option` to read.

    Args:
        query: the question with its hint and choices, as the model was asked it.
    """
    prompt = _ANSWER.format(query=query, reply=reply)
    return _found(judge, prompt, lambda said: said, "an answer", (0.0,), max_tokens=128)


def grade(judge: Judge, question: str, answer: str, reply: str) -> tuple[float | None, str]:
    """How right a reply is, 0 to 1: MM-Vet's grade."""
    truth = answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    prompt = _GRADE.format(question=question, truth=truth, reply=reply)
    return _found(judge, prompt, read_grade, "a grade from 0 to 1", _RISING, max_tokens=3)


def grade_pair(
    judge: Judge, question: str, caption: str, reference: str, reply: str
) -> tuple[tuple[float, float] | None, str]:
    """The grades of LLaVA-Bench, 1 to 10: of the reference answer, then of the reply.

    Args:
        caption: what is to be seen in the picture, in words.
    """
    prompt = _PAIR.format(caption=caption, question=question, reference=reference, reply=reply)
    return _found(judge, prompt, read_pair, "two grades from 1 to 10", (0.2,), system=_PAIR_SYSTEM)


def read_grade(said: str) -> float | None:
    """A number from 0 to 1, and nothing beside it."""
    try:
        grade = float(said)
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def read_pair(said: str) -> tuple[float, float] | None:
    """Two numbers from 1 to 10 on the first line, and nothing beside them."""
    try:
        first, second = map(float, said.split("\n")[0].replace(",", " ").split())
    except ValueError:
        return None
    return (first, second) if 1 <= first <= 10 and 1 <= second <= 10 else None


def _found(
    judge: Judge,
    prompt: str,
    read: Callable[[str], T | None],
    wanted: str,
    temperatures: Sequence[float],
    *,
    system: str | None = None,
    max_tokens: int | None = None,
    at_last: Callable[[str], T | None] = lambda said: None,
) -> tuple[T | None, str]:
    """What is read from the first answer that can be, one try a temperature; or why nothing is.

    The reason does not quote the judge, so that equal reasons can be counted; its words are in its cache.

    Args:
        at_last: reads the answer to the last try where `read` finds nothing.
    """
    useless = []
    for attempt, temperature in enumerate(temperatures):
        try:
            said = judge.ask(prompt, system=system, temperature=temperature, max_tokens=max_tokens, attempt=attempt)
        except JudgeError as error:
            return None, str(error)
        found = read(said.text)
        if found is None and attempt == len(temperatures) - 1:
            found = at_last(said.text)
        if found is not None:
            return found, ""
        useless.append(said)
    for answer in useless:  # so that the next run asks again
        answer.kept.unlink(missing_ok=True)
    tries = f" in {len(temperatures)} tries" if len(temperatures) > 1 else ""
    return None, f"the judge {judge.name!r} was to give {wanted}, and said something else{tries}"
