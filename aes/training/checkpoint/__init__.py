"""Checkpoints that are complete or do not count, and going on from them by the same path."""

from aes.training.checkpoint.manifest import Manifest
from aes.training.checkpoint.resumable import Resumable, find_resumable, read_checkpoint

__all__ = ["Manifest", "Resumable", "find_resumable", "read_checkpoint"]
