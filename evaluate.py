"""Evaluates a trained run: ``python evaluate.py --help``."""

from aes.cli.entry import evaluate

if __name__ == "__main__":
    evaluate()
