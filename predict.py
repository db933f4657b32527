"""Grades new essays with a trained run: ``python predict.py --help``."""

from aes.cli.entry import predict

if __name__ == "__main__":
    predict()
