"""Exports a run or a data set for other tools: ``python -m aes.export --help``."""

from aes.cli.entry import export

if __name__ == "__main__":
    export()
