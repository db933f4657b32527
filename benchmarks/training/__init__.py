"""What benchmarks/train.py is made of: geometry, random weights and batches, ways, measuring."""
