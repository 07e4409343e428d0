"""The data sets of the paper's instruction tuning, in the files that their authors publish: a file each."""

from mutua.data.readers.instruction.a_okvqa import AOKVQASource
from mutua.data.readers.instruction.gqa import GQASource
from mutua.data.readers.instruction.ocr_vqa import OCRVQASource
from mutua.data.readers.instruction.refcoco import RefCOCOSource
from mutua.data.readers.instruction.science_qa import ScienceQASource
from mutua.data.readers.instruction.visual_genome import VisualGenomeSource
from mutua.data.readers.instruction.vqav2 import VQAv2Source
from mutua.data.readers.instruction.vsr import VSRSource

__all__ = [
    "AOKVQASource",
    "GQASource",
    "OCRVQASource",
    "RefCOCOSource",
    "ScienceQASource",
    "VQAv2Source",
    "VSRSource",
    "VisualGenomeSource",
]
