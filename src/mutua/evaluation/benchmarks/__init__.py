"""The benchmarks, by name; one file each. A new one is a file here and its place in the tuple."""

from mutua.evaluation.benchmark import Benchmark
from mutua.evaluation.benchmarks.cv_bench import CV_BENCH
from mutua.evaluation.benchmarks.held_out import EASY_VQA, SCENES
from mutua.evaluation.benchmarks.llava_w import LLAVA_W
from mutua.evaluation.benchmarks.mathvista import MATHVISTA
from mutua.evaluation.benchmarks.mm_vet import MM_VET
from mutua.evaluation.benchmarks.mmbench import MMBENCH
from mutua.evaluation.benchmarks.mme import MME
from mutua.evaluation.benchmarks.mmmu import MMMU
from mutua.evaluation.benchmarks.pope import POPE
from mutua.evaluation.benchmarks.realworldqa import REALWORLDQA
from mutua.evaluation.benchmarks.seed import SEED

_PAPER = (MME, MMBENCH, SEED, LLAVA_W, MMMU, MATHVISTA, POPE, MM_VET, REALWORLDQA, CV_BENCH)

PAPER = tuple(benchmark.name for benchmark in _PAPER)
"""The ten sets behind the twelve figures of the paper's table, in its order."""

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (*_PAPER, EASY_VQA, SCENES)}

__all__ = ["BENCHMARKS", "PAPER"]
