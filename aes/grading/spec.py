"""Which calibration is asked for, as plain settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CalibrationSpec:
    """Calibration.

    Attributes:
        method: ``none``: scores as the model gives them; ``linear`` and ``isotonic``: see
            ``aes.grading.calibration_fit``.
        path: File that holds the maps; ``None``: ``calibration.json`` of the run.
    """

    method: Literal["none", "linear", "isotonic"]
    path: Path | None

    @model_validator(mode="after")
    def _path_is_used(self) -> CalibrationSpec:
        if self.method == "none" and self.path is not None:
            raise ValueError(
                "path does nothing without a method; choose calibration=linear or "
                "calibration=isotonic, or leave the path out"
            )
        return self
