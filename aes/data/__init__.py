"""Examples to tensors: tokens, positions, patches, batches."""
