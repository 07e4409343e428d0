"""Whatever is imported first, and by whom, Transformers knows our models once `mutua` is imported.

Each case is a fresh interpreter: what is imported cannot be taken back.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from mutua.api import PACKAGED

CHECK = f"""
import sys
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "mutua.registration"]
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
config = AutoConfig.from_pretrained({str(PACKAGED)!r})
assert type(AutoModelForImageTextToText.from_config(config)) is MutuaForConditionalGeneration
assert type(AutoProcessor.from_pretrained({str(PACKAGED)!r})) is MutuaProcessor
assert "mutua_split" in ALL_ATTENTION_FUNCTIONS.valid_keys()
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] in ("mutua", "transformers"):
        assert type(getattr(module, "__loader__", None)).__module__ != "mutua.registration", name
        spec = getattr(module, "__spec__", None)
        assert type(getattr(spec, "loader", None)).__module__ != "mutua.registration", name
"""


def run(code: str, *options: str) -> str:
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


ORDERS = {
    "the model's class later": "import mutua\nfrom transformers import AutoModelForImageTextToText",
    "the model's class before": "from transformers import AutoModelForImageTextToText\nimport mutua",
    "both packages in one line": "import mutua, transformers\ntransformers.pipeline",
    "transformers alone before": (
        "import transformers, mutua\nassert 'torch' not in sys.modules\ntransformers.AutoConfig"
    ),
    "another library's way": "import mutua\nfrom transformers import Trainer",
    "what imports no Auto class first": (
        "import mutua\nfrom transformers import GenerationConfig\nimport transformers.masking_utils\n"
        "assert 'mutua.models' not in sys.modules\nimport transformers.models.auto.processing_auto"
    ),
    "a tokenizer first": "import mutua\nfrom transformers import AutoTokenizer, GenerationMixin",
    "one model's own module first": "import mutua\nimport transformers.models.llama.modeling_llama",
    "a room of ours first": "from mutua.attention import MMA",
    "an attribute of ours first": "import mutua\nmutua.load",
    "an import that fails on the way": (
        "import mutua\n"
        "for wrong in ('transformers.models.none', 'mutua.none'):\n"
        "    try: __import__(wrong)\n"
        "    except ModuleNotFoundError: pass\n"
        "from transformers import AutoConfig"
    ),
    "reloads": (
        "import importlib, mutua\nimport transformers.utils.hub\nimportlib.reload(transformers.utils.hub)\n"
        "importlib.reload(mutua)\nfrom transformers import AutoConfig\nimportlib.reload(mutua)"
    ),
}


# Three seconds each: the orders that are least alike run by default.
QUICK = ("transformers alone before", "one model's own module first")


@pytest.mark.parametrize("order", [pytest.param(o, marks=[] if o in QUICK else [pytest.mark.slow]) for o in ORDERS])
def test_the_models_are_known(order):
    run(f"import sys\n{ORDERS[order]}\n{CHECK}")


@pytest.mark.parametrize(
    ("name", "use"),
    [
        pytest.param(
            "AutoConfig",
            f"assert AutoConfig.from_pretrained({str(PACKAGED)!r}).model_type == 'mutua'",
            marks=pytest.mark.slow,
        ),
        (
            "AutoProcessor",
            f"assert type(AutoProcessor.from_pretrained({str(PACKAGED)!r})).__name__ == 'MutuaProcessor'",
        ),
        pytest.param("pipeline", f"pipeline('image-text-to-text', model={str(PACKAGED)!r})", marks=pytest.mark.slow),
    ],
)
def test_one_name_is_enough(name, use):
    run(f"import mutua\nfrom transformers import {name}\n{use}")


@pytest.mark.slow
def test_importtime_shows_the_imports_as_ever():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import mutua\nfrom transformers import AutoConfig"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "mutua.models.modeling" in done.stderr


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_threads_that_import_at_once(seed):
    """Without care, a thread that registers waits for one of ours that waits for it, and both fail."""
    code = f"""
import random, threading, time
import transformers, mutua
dice, failures = random.Random({seed}), []
ways = [
    lambda: transformers.AutoConfig,
    lambda: transformers.pipeline,
    lambda: mutua.load,
    lambda: mutua.compose,
    lambda: __import__("mutua.attention"),
    lambda: __import__("mutua.inspection.leakage"),
]
def run(way, delay):
    time.sleep(delay)
    try:
        way()
    except BaseException as error:
        failures.append(repr(error))
threads = [threading.Thread(target=run, args=(way, dice.choice([0, dice.random()]))) for way in dice.sample(ways, 4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
"""
    run(code + CHECK)


def test_a_broken_installation_is_not_passed_over():
    code = (
        "import sys, mutua\nsys.modules['mutua.models.connectors'] = None\n"
        "try: from transformers import AutoConfig\n"
        "except ImportError as error: assert 'mutua.models.connectors' in str(error.__cause__), error\n"
        "else: raise AssertionError('imported')"
    )
    run(code)


def test_a_spec_that_is_only_looked_at_can_do_what_its_loader_can():
    run(
        "import importlib.util, pkgutil, mutua\n"
        "spec = importlib.util.find_spec('transformers')\n"
        "assert spec.loader.get_filename('transformers').endswith('__init__.py')\n"
        "assert spec.loader.is_package('transformers')\n"
        "assert pkgutil.get_data('transformers', '__init__.py')\n"
    )
