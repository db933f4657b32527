"""Files -> Essays: reading, checks of what was read, leak-free splits, the degradation ladder."""

from aes.corpus.aes_dataset import AesDataset
from aes.corpus.base import Corpus
from aes.corpus.check import FindUndrawable, OpenPage
from aes.corpus.degrade import degrade_essays
from aes.corpus.problems import PROBLEMS, Reading, write_check
from aes.corpus.sample_corpus import SampleCorpus, load_sample
from aes.corpus.split import Split, split_essays

__all__ = [
    "PROBLEMS",
    "AesDataset",
    "Corpus",
    "FindUndrawable",
    "OpenPage",
    "Reading",
    "SampleCorpus",
    "Split",
    "degrade_essays",
    "load_sample",
    "split_essays",
    "write_check",
]
