"""Conversations about one scene: every later turn has one right answer, too."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mutua.data.readers import EasyVQA, Scenes
from mutua.data.scenes.dialogue import follow_up
from mutua.data.scenes.questions import FAMILIES


def test_the_first_turn_is_that_of_the_single_question():
    plain, chats = Scenes("train", 20), Scenes("train", 20, turns=4)
    for index in range(20):
        assert chats[index].messages[:2] == plain[index].messages
        assert len(chats[index].messages) == 8


def test_the_same_index_gives_the_same_conversation():
    chats = Scenes("test", 5, seed=3, turns=3)
    assert [sample.chat()[1:] for sample in chats] == [sample.chat()[1:] for sample in Scenes("test", 5, 3, turns=3)]


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "describe"])
def test_answers_hold_and_are_not_one_sided(family):
    rng, answers, asked = random.Random(0), Counter(), Counter()
    scenes = Scenes("train", 400)
    for index in range(len(scenes)):
        scene = scenes.item(index).scene
        question = follow_up(rng, scene, family)
        asked[question.family] += 1
        answers[question.answer(scene)] += 1  # raises where there is no one right answer
    assert asked[family] > 0.9 * asked.total()
    assert answers.most_common(1)[0][1] < 0.62 * answers.total()


def test_a_caption_has_no_follow_up():
    with pytest.raises(ValueError, match="turns 2"):
        Scenes("train", 5, families=("describe",), turns=2)
    with pytest.raises(ValueError, match="no follow-up"):
        follow_up(random.Random(0), Scenes("train", 1).item(0).scene, "describe")


def test_easy_vqa_goes_on_about_its_picture():
    plain, chats = EasyVQA("test"), EasyVQA("test", turns=4)
    for index in (0, 7, len(plain) - 1):
        chat = chats[index]
        assert chat.messages[:2] == plain[index].messages
        texts = [message.text for message in chat.messages if message.role == "user"]
        assert len(texts) == len(set(texts)) == 4
    known = {(plain.image_ids[i], plain.questions[i], plain.answers[i]) for i in range(len(plain))}
    asked = [message.text for message in chats[7].messages]
    assert all((plain.image_ids[7], *pair) in known for pair in zip(asked[::2], asked[1::2], strict=True))
