"""Calibrations <-> ``calibration.json`` of a run, with what they were fitted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from aes.files import write_atomically
from aes.grading.calibration import Calibration, Method
from aes.rubric import Rubric

CALIBRATION_FILE = "calibration.json"

_SCHEMA = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class _Contents:
    """The file. Traits are (name, lowest, highest) in order: the order is part of the question."""

    version: Literal[1]
    rubric: str
    traits: tuple[tuple[str, int, int], ...]
    split: str
    adapter_digest: str
    calibrations: tuple[Calibration, ...]

    @model_validator(mode="after")
    def _every_trait_is_told_of(self) -> _Contents:
        names = sorted(name for name, _, _ in self.traits)
        for calibration in self.calibrations:
            if sorted([*calibration.curves, *calibration.unchanged]) != names:
                raise ValueError(f"{calibration.method} does not have each of {names} once")
        return self


_ADAPTER = TypeAdapter(_Contents)


def save_calibrations(
    path: Path,
    calibrations: Sequence[Calibration],
    rubric: Rubric,
    *,
    split: str,
    adapter_digest: str = "",
) -> None:
    """Write all methods' maps in one step.

    Args:
        path: ``calibration.json`` of the run.
        calibrations: One for each method.
        rubric: Which they were fitted for.
        split: Which part of the data they were fitted on.
        adapter_digest: Of the adapter that graded; empty: not known.
    """
    contents = _Contents(
        version=1,
        rubric=rubric.title,
        traits=_traits(rubric),
        split=split,
        adapter_digest=adapter_digest,
        calibrations=tuple(calibrations),
    )
    write_atomically(path, _ADAPTER.dump_json(contents, indent=2) + b"\n")


def load_calibration(
    path: Path, rubric: Rubric, method: Method, *, adapter_digest: str = ""
) -> Calibration:
    """The maps of one method.

    Args:
        path: As written by ``save_calibrations``.
        rubric: Which is graded under now.
        adapter_digest: Of the adapter that grades now; empty: not known and not compared.

    Raises:
        ValueError: If the file is missing, broken, or was fitted for another rubric or adapter.
    """
    cure = f"run python evaluate.py run={path.parent} split=val"
    contents = _read(path, cure)
    if (contents.rubric, contents.traits) != (rubric.title, _traits(rubric)):
        raise ValueError(
            f"{path} was fitted for the rubric {contents.rubric} with {_told(contents.traits)}, "
            f"not for {rubric.title} with {_told(_traits(rubric))}; {cure} under this rubric"
        )
    if adapter_digest and contents.adapter_digest and adapter_digest != contents.adapter_digest:
        raise ValueError(f"{path} was fitted for another adapter than the run has now; {cure}")
    for calibration in contents.calibrations:
        if calibration.method == method:
            return calibration
    raise ValueError(f"{path} holds no {method} calibration; {cure}")


def _read(path: Path, cure: str) -> _Contents:
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"there is no calibration {path}; {cure}, which makes one") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); {cure}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(
            f"{path} is not a calibration ({where}: {first['msg']}); {cure} to write it anew"
        ) from error


def _traits(rubric: Rubric) -> tuple[tuple[str, int, int], ...]:
    return tuple((name, low, high) for name, (low, high) in rubric.ranges.items())


def _told(traits: tuple[tuple[str, int, int], ...]) -> str:
    return ", ".join(f"{name} {low}-{high}" for name, low, high in traits)
