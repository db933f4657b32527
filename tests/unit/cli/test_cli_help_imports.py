"""Help is there at once: none of the heavy libraries is imported for it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "transformers", "lightning", "peft", "datasets", "numpy", "scipy", "matplotlib"}


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_help_imports_nothing_heavy(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / f"{command}.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"python {command}.py" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "aes.cli.entry" in imported
    assert not imported & HEAVY
