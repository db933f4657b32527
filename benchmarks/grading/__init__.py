"""What benchmarks/grade.py is made of."""
