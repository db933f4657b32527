"""Trials -> rows of figures: seconds, rates, shares of the peak, memory, equality with plain.

A row that runs out of memory or fails is a row that says so. Knows no command line.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from training import flops
from training.options import Row
from training.trial import Setting, Trial

REFERENCE_STEPS = 113
"""900 samples in steps of 8."""
REFERENCE_PAGES = 300
"""Each essay's page, computed once where its features are kept."""
GEMM_SIZES = {"cuda": (4096, 8192, 12288), "cpu": (512, 1024, 2048)}


@dataclass
class Measurement:
    """A row being measured.

    Attributes:
        trial: ``None`` where it could not be made ready.
        seconds: Of each repeat; ``figures`` hold what is known beside them.
    """

    row: Row
    trial: Trial | None = None
    seconds: list[float] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


class Meter:
    """Measures trials of one setting.

    Args:
        setting: What they have in common.
        clock: ``cpu``: the process's own time, which others on the machine do not lengthen.
    """

    def __init__(self, setting: Setting, clock: Literal["wall", "cpu"]) -> None:
        self.setting = setting
        self.clock = time.process_time if clock == "cpu" else time.perf_counter
        self.is_cuda = setting.device.type == "cuda"
        self.gemm = self._sweep()
        self.page_s = 0.0

    @property
    def peak_tflops(self) -> float:
        """The fastest matrix product of the sweep."""
        return max(self.gemm.values())

    def time(self, run: Callable[[], Any]) -> float:
        """Seconds that a call takes, the device's work included."""
        self._wait()
        start = self.clock()
        run()
        self._wait()
        return self.clock() - start

    def time_pages(self, trial: Trial, repeats: int) -> None:
        """Seconds that the tower takes for a page, from the host's patches to its features."""
        features = trial.page_features
        features()
        seconds = [self.time(features) for _ in range(repeats)]
        self.page_s = statistics.median(seconds) / len(self.setting.samples)

    def start(self, row: Row, plain: Measurement | None) -> Measurement:
        """Make a row's trial ready, compare it with plain, and warm it up."""
        found = Measurement(row)

        def prepare() -> None:
            found.trial = Trial(row.options, self.setting)
            loss, found.gradients, load = found.trial.first_pass()
            found.figures |= {"loss": loss, "expert_load": load and round(load, 3)}
            if plain is not None and plain.gradients:
                found.figures |= _differences(found, plain)
            if self.is_cuda or row.options.compiled:
                found.trial.step()

        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        self._guard(found, prepare)
        return found

    def repeat(self, found: Measurement) -> None:
        """Time one more step of a row, unless it has failed."""
        if found.trial is not None:
            trial = found.trial
            self._guard(found, lambda: found.seconds.append(self.time(trial.step)))

    def describe(self, found: Measurement, plain: Measurement | None) -> dict[str, Any]:
        """The row for the JSON, as far as it was measured."""
        figures = dict(found.figures)
        if found.seconds:
            figures |= self._rates(found)
            if plain is not None and plain.seconds:
                pairs = zip(plain.seconds, found.seconds, strict=False)
                figures["times_plain"] = round(statistics.median(a / b for a, b in pairs), 3)
        elif "failed" not in figures:
            figures["not_run"] = "out of time"
        if self.is_cuda and found.trial is not None:
            figures["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return found.row.describe() | figures

    def release(self, found: Measurement) -> None:
        """Let go of a row's model."""
        found.trial = None
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            if found.row.options.compiled:  # on a CPU others take turns with it
                torch.compiler.reset()

    def _rates(self, found: Measurement) -> dict[str, Any]:
        options, lengths = found.row.options, self.setting.lengths
        seconds = statistics.median(found.seconds)
        cached = options.vision == "cached"
        needed = flops.step(
            self.setting.geometry, lengths, self.setting.num_supervised, with_tower=not cached
        )
        again = flops.recomputed(
            self.setting.geometry, lengths, options.checkpointing, options.every
        )
        tflops = needed / seconds / 1e12
        pages_s = REFERENCE_PAGES * self.page_s if cached else 0.0
        steps_s = REFERENCE_STEPS * seconds * 8 / len(lengths)
        return {
            "s_per_step": round(seconds, 4),
            "s_least": round(min(found.seconds), 4),
            "s_most": round(max(found.seconds), 4),
            "tokens_per_s": round(sum(lengths) / seconds, 1),
            "samples_per_s": round(len(lengths) / seconds, 3),
            "tflops": round(tflops, 3),
            "tflops_with_recompute": round((needed + again) / seconds / 1e12, 3),
            "share_of_peak": round(tflops / self.peak_tflops, 4),
            "reference_job_s": round(steps_s + pages_s, 1),
        }

    def _guard(self, found: Measurement, run: Callable[[], None]) -> None:
        """Run, or note in the row why that was not possible; the rows after it still count."""
        try:
            run()
        except torch.OutOfMemoryError:
            found.figures["failed"] = "out of memory"
        except Exception as error:  # whatever a kernel raises on a card that nobody has tried
            text = " ".join(str(error).split())
            found.figures["failed"] = f"{type(error).__name__}: {text[:200]}"
        if "failed" in found.figures:
            self.release(found)

    def _sweep(self) -> dict[int, float]:
        """TFLOP/s of square matrix products by side, the fastest of several."""
        dtype = torch.bfloat16 if self.setting.precision == "bf16" else torch.float32
        found = {}
        for side in GEMM_SIZES[self.setting.device.type]:
            a, b = (torch.randn(side, side, dtype=dtype, device=self.setting.device) for _ in "ab")
            seconds = [self.time(lambda a=a, b=b: a @ b) for _ in range(8)]  # type: ignore[misc]
            found[side] = round(2 * side**3 / min(seconds) / 1e12, 3)
        return found

    def _wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()


def _differences(found: Measurement, plain: Measurement) -> dict[str, float]:
    """From plain's loss, and from the greatest entry of its gradients, both as shares."""
    loss, gold = found.figures["loss"], plain.figures["loss"]
    greatest = max(float(g.abs().max()) for g in plain.gradients.values())
    furthest = max(
        float((found.gradients[name] - g).abs().max()) for name, g in plain.gradients.items()
    )
    return {
        "loss_difference": abs(loss - gold) / abs(gold),
        "gradient_difference": furthest / greatest,
    }


def summary(measured: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    options = measured["options"]
    head = [measured["name"], str(options["micro_batch"])]
    if "s_per_step" not in measured:
        return [*head, measured.get("failed", measured.get("not_run", ""))]
    spread = (measured["s_most"] - measured["s_least"]) / measured["s_per_step"] / 2
    return [
        *head,
        f"{measured['s_per_step']:.3f}",
        f"{spread:.0%}",
        f"{measured['tokens_per_s']:,.0f}",
        f"{measured['samples_per_s']:.2f}",
        f"{measured['tflops']:.2f}",
        f"{measured['share_of_peak']:.1%}",
        f"{measured['peak_gib']:.1f}" if "peak_gib" in measured else "",
        f"{measured['reference_job_s']:.0f}",
        f"{measured['times_plain']:.2f}" if "times_plain" in measured else "",
        f"{measured['gradient_difference']:.0e}" if "gradient_difference" in measured else "",
    ]
