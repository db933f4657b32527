"""Instruction data as other tools have it -> Examples, one by one, with what is wrong with them."""

from aes.corpus.instructions.columns import (
    AlpacaColumns,
    CaptionColumns,
    ShareGptColumns,
    ShareGptTags,
)
from aes.corpus.instructions.file_data import AlpacaData, CaptionData, ShareGptData
from aes.corpus.instructions.registry import RegistryData
from aes.corpus.instructions.spec import Finding, InstructionData, Sample

__all__ = [
    "AlpacaColumns",
    "AlpacaData",
    "CaptionColumns",
    "CaptionData",
    "Finding",
    "InstructionData",
    "RegistryData",
    "Sample",
    "ShareGptColumns",
    "ShareGptData",
    "ShareGptTags",
]
