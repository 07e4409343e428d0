"""VLMEvalKit runs Mutua's models and scores its answers; both as Mutua does."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("vlmeval")

import pandas as pd
import vlmeval.dataset
from awkward import REFUSALS
from PIL import Image
from scripted_judge import Answer as Judgement
from scripted_judge import scripted
from vlmeval.dataset import build_dataset

import mutua
from mutua.data.sample import SampleError
from mutua.evaluation.benchmarks import BENCHMARKS
from mutua.evaluation.fixtures import write_tsv
from mutua.evaluation.harness.vlmevalkit import VLMEvalKitModel, main, name_of
from mutua.evaluation.harness.vlmevalkit_files import write_predictions
from mutua.evaluation.judge import Judge
from mutua.evaluation.predictions import Predictions, key_of
from mutua.evaluation.questions import Questions, open_questions
from mutua.evaluation.results import score
from mutua.evaluation.suite import PREDICTIONS, RUN, Settings
from mutua.respond import Answer, respond

DATASETS = {"mme": "MME", "pope": "POPE", "mmbench": "MMBench_DEV_EN", "seed": "SEEDBench_IMG"}
DATASETS |= {"mmmu": "MMMU_DEV_VAL", "realworldqa": "RealWorldQA"}
CV_BENCH = [name for name in ("CV-Bench-2D", "CV-Bench-3D") if name in vlmeval.dataset.SUPPORTED_DATASETS]
if CV_BENCH:  # not in that of March 2025
    DATASETS["cv_bench"] = CV_BENCH[0]
JUDGED = {"llava_w": "LLaVABench", "mathvista": "MathVista_MINI", "mm_vet": "MMVet"}
JUDGED_FIGURES = {
    "llava_w": ("split", "Relative Score (main)", "overall"),
    "mathvista": ("Task&Skill", "acc", "Overall"),
}
JUDGED_FIGURES |= {"mm_vet": ("Category", "acc", "Overall")}
ALL = [*DATASETS.values(), *CV_BENCH[1:], *JUDGED.values()]


SETTINGS = Settings("packaged", "0123456789abcdef", "", "mma", "float32", 8, None)


def judged(_: int, request: dict) -> Judgement:
    """What the judge says, asked in VLMEvalKit's words or in Mutua's."""
    asked = str(request["messages"])
    if "[Answer 1]" in asked or "[Assistant 1]" in asked:
        return Judgement("4 8\nThe second is better.")
    return Judgement("0.5" if "Correctness" in asked or "Grade how right" in asked else "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small tables, where VLMEvalKit looks for the real ones; it is kept from fetching those."""
    folder = tmp_path_factory.mktemp("tables")
    write_tsv(folder)
    for name in ALL:
        (found,) = folder.rglob(f"{name}.tsv")
        if found.parent != folder:
            shutil.copy(found, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(folder))
        for kind in vars(vlmeval.dataset).values():
            if isinstance(kind, type) and hasattr(kind, "DATASET_MD5"):
                patch.setattr(kind, "DATASET_MD5", {})
        yield folder


@pytest.fixture(scope="module")
def inferred(data, tmp_path_factory):
    """The folder of a run of VLMEvalKit over all benchmarks that it has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        main(["packaged", "--policy", "causal", "--data", *ALL, "--work-dir", "out", "--mode", "infer"])
        return Path("out").resolve()


def as_jpeg(picture: Image.Image) -> Image.Image:
    """As VLMEvalKit of March 2025 stores a picture before a model sees it, but for those of which a row has several."""
    held = BytesIO()
    picture.save(held, "JPEG")
    return Image.open(held)


@pytest.fixture(scope="module")
def causal():
    return mutua.load(policy="causal")


@pytest.mark.parametrize("name", [*DATASETS, *JUDGED])
def test_vlmevalkit_gets_the_answers_of_mutua(data, inferred, causal, name):
    questions = open_questions(BENCHMARKS[name], data)
    tables = CV_BENCH if name == "cv_bench" else [{**DATASETS, **JUDGED}[name]]
    files = [{path.resolve() for path in inferred.rglob(f"mutua-packaged-*_{table}.xlsx")}.pop() for table in tables]
    given = pd.concat([pd.read_excel(file, dtype=str, keep_default_na=False) for file in files])
    rows = {(row.source + "/" if name == "cv_bench" else "") + row.index: row for row in given.itertuples(index=False)}
    assert len(rows) == len(questions.all)
    for place, question in enumerate(questions.all):
        row = rows[question.id]
        prompt = row.prompt if name == "cv_bench" else question.prompt  # of CV-Bench, Mutua asks as the paper
        pictures = questions.pictures(place)
        if not CV_BENCH and len(pictures) == 1:
            pictures = [as_jpeg(pictures[0])]
        asked = replace(question, prompt=prompt).conversation(pictures)
        assert row.prediction == respond(*causal, [asked], max_new_tokens=512)[0].text


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


def test_another_model_policy_or_weights_have_another_name(tmp_path):
    """The harness takes over what lies under a name."""
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "model.safetensors").write_bytes(b"weights")
    one, two = (str(tmp_path / run) for run in ("one", "two"))
    names = [name_of(None, None), name_of(None, "causal"), name_of(one, None), name_of(two, None), name_of(one, "mma")]
    names.append(name_of("owner/some-model-1.5", None))
    assert names[-1].startswith("mutua-owner-some-model-1_5-")
    before = name_of(one, None)
    os.utime(tmp_path / "one/model.safetensors", (1, 1))
    names.append(name_of(one, None))
    assert len({*names, before}) == len(names) == 7
    assert name_of(two, None) == names[3]


def replies(questions: Questions) -> list[str]:
    """Right, wrong and awkward ones, of one form to questions that count together."""
    forms = ("{}", "{}.", "({})", "The answer\x0bis {}", *REFUSALS[:5], "A", "no idea")
    places = {place: nth for nth, group in enumerate(questions.groups()) for place in group}
    return [forms[places[n] * 5 % len(forms)].replace("{}", q.answer) for n, q in enumerate(questions.all)]


@pytest.fixture(scope="module")
def output(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    (folder / PREDICTIONS).mkdir()
    (folder / RUN).write_text(json.dumps(asdict(SETTINGS)))
    for name in (*DATASETS, *JUDGED):
        benchmark = BENCHMARKS[name]
        questions = open_questions(benchmark, data)
        store(folder, questions, replies(questions))
    return folder


def store(folder: Path, questions: Questions, texts: list[str]) -> None:
    """As `mutua eval --suite` leaves its answers."""
    keys = [key_of(question, questions.protocol, questions.version) for question in questions.all]
    answers = [Answer(text, "stop", 1) for text in texts]
    Predictions(folder / PREDICTIONS, questions.benchmark.name).add(keys, questions.all, answers)


@pytest.mark.parametrize("name", DATASETS)
def test_vlmevalkit_scores_the_answers_as_mutua_does(data, output, tmp_path, name):
    files = write_predictions(output, data, tmp_path)
    (file,) = (file for file in files if file.name == f"mutua-mma-01234567_{DATASETS[name]}.xlsx")
    theirs = build_dataset(DATASETS[name]).evaluate(str(file), model="exact_matching", nproc=1)
    ours = score(open_questions(BENCHMARKS[name], data), output, SETTINGS, None).figures
    figure = ours["2D lenient" if name == "cv_bench" else BENCHMARKS[name].main[0]].value
    if name in ("mme", "pope"):
        assert figure == pytest.approx(theirs.iloc[0]["perception" if name == "mme" else "Overall"])
    elif name == "mmmu":  # of which the table has another split, too
        assert figure == pytest.approx(100 * theirs.set_index("split")["Overall"]["validation"])
    else:
        assert figure == pytest.approx(100 * theirs["Overall"].item())
    assert 0 < figure < (2000 if name == "mme" else 100)


@pytest.mark.parametrize("name", JUDGED)
def test_what_a_judge_reads_and_grades_scores_as_in_vlmevalkit(data, output, tmp_path, monkeypatch, name):
    if name == "llava_w":  # ms-vlmeval 0.0.20 imports it from a place where it is not
        pytest.importorskip("vlmeval.dataset.utils.llavabench", exc_type=ImportError)
    files = write_predictions(output, data, tmp_path)
    (file,) = (file for file in files if file.name == f"mutua-mma-01234567_{JUDGED[name]}.xlsx")
    with scripted(judged) as served:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
        monkeypatch.setenv("OPENAI_API_BASE", f"{served.url}/chat/completions")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        by, column, row = JUDGED_FIGURES[name]
        theirs = build_dataset(JUDGED[name]).evaluate(str(file), model="gpt-4-turbo", nproc=1)
        judge = Judge("judge-1", tmp_path / "judge", url=served.url, retries=0)
        ours = score(open_questions(BENCHMARKS[name], data), output, SETTINGS, judge)
    assert not ours.unscored
    assert ours.figures[ours.benchmark.main[0]].value == pytest.approx(theirs.set_index(by)[column][row])


def test_a_reply_stays_the_text_that_it_is(data, tmp_path):
    """In a spreadsheet, some could be formulas and errors."""
    (tmp_path / PREDICTIONS).mkdir()
    (tmp_path / RUN).write_text(json.dumps(asdict(SETTINGS)))
    questions = open_questions(BENCHMARKS["pope"], data)
    texts = [("=B", "#N/A", "=1+1", "#REF!", "-1")[place % 5] for place in range(len(questions.all))]
    store(tmp_path, questions, texts)
    (file,) = write_predictions(tmp_path, data, tmp_path / "files")
    assert pd.read_excel(file, dtype=str, keep_default_na=False)["prediction"].tolist() == texts


def test_answers_to_other_questions_are_refused(output, tmp_path):
    with pytest.raises(SampleError, match="none of VLMEvalKit's tables"):
        write_predictions(output, tmp_path, tmp_path / "files")
