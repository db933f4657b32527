"""Examples to tensors: tokens, positions, patches, batches."""

from aes.data.spec import BatchingSpec

__all__ = ["BatchingSpec"]
