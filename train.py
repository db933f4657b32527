"""Trains a grader: ``python train.py --help``."""

from aes.cli.entry import train

if __name__ == "__main__":
    train()
