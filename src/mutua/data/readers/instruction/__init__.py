"""The data sets of the paper's instruction tuning, in the files that their authors publish: a file each."""

from mutua.data.readers.instruction.a_okvqa import AOKVQA, AOKVQASource
from mutua.data.readers.instruction.gqa import GQA, GQASource
from mutua.data.readers.instruction.ocr_vqa import OCRVQA, OCRVQASource
from mutua.data.readers.instruction.refcoco import RefCOCO, RefCOCOSource
from mutua.data.readers.instruction.science_qa import ScienceQA, ScienceQASource
from mutua.data.readers.instruction.visual_genome import VisualGenome, VisualGenomeSource
from mutua.data.readers.instruction.vqav2 import VQAv2, VQAv2Source
from mutua.data.readers.instruction.vsr import VSR, VSRSource

__all__ = [
    "AOKVQA",
    "GQA",
    "OCRVQA",
    "VSR",
    "AOKVQASource",
    "GQASource",
    "OCRVQASource",
    "RefCOCO",
    "RefCOCOSource",
    "ScienceQA",
    "ScienceQASource",
    "VQAv2",
    "VQAv2Source",
    "VSRSource",
    "VisualGenome",
    "VisualGenomeSource",
]
