"""Training runs: module, loss, optimiser, saving, logging."""

from aes.training.spec import (
    CheckpointSpec,
    CsvSpec,
    LoggerSpec,
    LossSpec,
    NoLoggerSpec,
    OptimSpec,
    SampleTableSpec,
    TrainerSpec,
    WandbSpec,
)

__all__ = [
    "CheckpointSpec",
    "CsvSpec",
    "LoggerSpec",
    "LossSpec",
    "NoLoggerSpec",
    "OptimSpec",
    "SampleTableSpec",
    "TrainerSpec",
    "WandbSpec",
]
