"""VLMEvalKit runs Mutua's models and scores its answers; both as Mutua does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("vlmeval")

import pandas as pd
import vlmeval.dataset
from awkward import REFUSALS
from vlmeval.dataset import build_dataset

import mutua
from mutua.data.sample import SampleError
from mutua.evaluation.benchmarks import BENCHMARKS
from mutua.evaluation.fixtures import write_tsv
from mutua.evaluation.harness.vlmevalkit import VLMEvalKitModel, main
from mutua.evaluation.harness.vlmevalkit_files import write_predictions
from mutua.evaluation.predictions import Predictions, key_of
from mutua.evaluation.questions import Questions, open_questions
from mutua.evaluation.results import score
from mutua.evaluation.suite import PREDICTIONS, Settings
from mutua.respond import Answer, respond

DATASETS = {"mme": "MME", "pope": "POPE", "mmbench": "MMBench_DEV_EN", "seed": "SEEDBench_IMG"}
DATASETS |= {"mmmu": "MMMU_DEV_VAL", "realworldqa": "RealWorldQA"}
if "CV-Bench-2D" in vlmeval.dataset.SUPPORTED_DATASETS:  # not in that of March 2025
    DATASETS["cv_bench"] = "CV-Bench-2D"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small tables, where VLMEvalKit looks for the real ones; it is kept from fetching those."""
    folder = tmp_path_factory.mktemp("tables")
    write_tsv(folder)
    for name in DATASETS.values():
        (found,) = folder.rglob(f"{name}.tsv")
        if found.parent != folder:
            shutil.copy(found, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(folder))
        for kind in vars(vlmeval.dataset).values():
            if isinstance(kind, type) and hasattr(kind, "DATASET_MD5"):
                patch.setattr(kind, "DATASET_MD5", {})
        yield folder


def test_vlmevalkit_gets_the_answers_of_mutua_ask(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["packaged", "--policy", "causal", "--data", "MME", "--work-dir", "out", "--mode", "infer"])
    (file,) = {path.resolve() for path in Path("out").rglob("mutua_MME.xlsx")}
    given = dict(pd.read_excel(file)[["index", "prediction"]].itertuples(index=False))
    model, processor = mutua.load(policy="causal")
    questions = open_questions(BENCHMARKS["mme"], data)
    assert len(given) == len(questions.all)
    for place, question in enumerate(questions.all):
        answer = mutua.ask(model, processor, questions.pictures(place), question.prompt, max_new_tokens=512)
        assert given[int(question.id)] == answer


def test_pictures_and_texts_keep_their_order(data, tmp_path):
    model = VLMEvalKitModel()
    picture = open_questions(BENCHMARKS["mme"], data).pictures(0)[0]
    picture.save(tmp_path / "a.png")
    said = model.generate(["what colour is", str(tmp_path / "a.png"), "this?"])
    parts = [{"type": "text", "text": "what colour is"}, {"type": "image", "image": picture}]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": "this?"}]}
    assert said == respond(*mutua.load(), [[message]], max_new_tokens=512)[0].text
    with pytest.raises(ValueError, match="a part of type 'video'"):
        model.generate_inner([{"type": "video", "value": "a.mp4"}])


def replies(questions: Questions) -> list[str]:
    """Right, wrong and awkward ones, of one form to questions that count together."""
    forms = ("{}", "{}.", "({})", "The answer\x0bis {}", *REFUSALS[:5], "A", "no idea")
    places = {place: nth for nth, group in enumerate(questions.groups()) for place in group}
    return [forms[places[n] * 5 % len(forms)].replace("{}", q.answer) for n, q in enumerate(questions.all)]


@pytest.fixture(scope="module")
def output(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    (folder / PREDICTIONS).mkdir()
    for name in DATASETS:
        benchmark = BENCHMARKS[name]
        questions = open_questions(benchmark, data)
        keys = [key_of(question, benchmark.protocol, questions.version) for question in questions.all]
        answers = [Answer(text, "stop", 1) for text in replies(questions)]
        Predictions(folder / PREDICTIONS, name).add(keys, questions.all, answers)
    return folder


@pytest.mark.parametrize("name", DATASETS)
def test_vlmevalkit_scores_the_answers_as_mutua_does(data, output, tmp_path, name):
    files = write_predictions(output, data, tmp_path)
    (file,) = (file for file in files if file.name == f"mutua_{DATASETS[name]}.xlsx")
    theirs = build_dataset(DATASETS[name]).evaluate(str(file), model="exact_matching", nproc=1)
    settings = Settings("packaged", "", "mma", "float32", 8, None)
    ours = score(open_questions(BENCHMARKS[name], data), output, settings, None).figures
    figure = ours["2D lenient" if name == "cv_bench" else BENCHMARKS[name].main[0]].value
    if name in ("mme", "pope"):
        assert figure == pytest.approx(theirs.iloc[0]["perception" if name == "mme" else "Overall"])
    elif name == "mmmu":  # of which the table has another split, too
        assert figure == pytest.approx(100 * theirs.set_index("split")["Overall"]["validation"])
    else:
        assert figure == pytest.approx(100 * theirs["Overall"].item())
    assert 0 < figure < (2000 if name == "mme" else 100)


def test_answers_to_other_questions_are_refused(output, tmp_path):
    with pytest.raises(SampleError, match="none of VLMEvalKit's tables"):
        write_predictions(output, tmp_path, tmp_path / "files")
