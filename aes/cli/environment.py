"""Sets the process up for other libraries: how threads wait, and no chatter on the terminal."""

from __future__ import annotations

import logging
import os
import sys
import warnings

_CHATTY = (
    "lightning.pytorch",
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric",
    "lightning.fabric.utilities.rank_zero",
    "peft",
    "datasets",
    "bitsandbytes",
)


def prepare_environment() -> None:
    """To be called before the heavy libraries are imported; what the user has set stays."""
    # OpenMP threads that spin while they wait take the cores from the loader's processes: on two
    # busy cores 25 steps of the nano took 33 s spinning and 10 s passive (docs/decisions.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Tokenizers warn when loader processes are forked; each process tokenises alone anyway.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Nothing leaves the machine by default.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # gloo warns of host names it cannot find
    if not sys.stderr.isatty():  # bars are for people; a log would get a line for each redraw
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        r".*is_gradient_checkpointing.*",
        r".*does not have many workers.*",
        r".*Trying to infer the `batch_size`.*",
        r".*LeafSpec.*",
        r".*requires_grad=True to a scalar.*",
        r".*smaller than the logging interval.*",
        r".*module\(s\) in eval mode at the start of training.*",  # PEFT leaves the base so
        r".*exists and is not empty.*",
        r".*sync_dist=True.*",  # the metrics are of all ranks already
    ):
        warnings.filterwarnings("ignore", message=message)
