"""What the plan says of pages' features that are kept."""

import io
from collections.abc import Callable
from typing import Any, Literal

import pytest
from rich.console import Console

from aes.model.vision_cache import KeptFeatures
from aes.plan import Plan, plan_to_dict, render_plan

GIB = 2**30
Place = Literal["none", "memory", "disk"]


def _shown(plan: Plan) -> str:
    file = io.StringIO()
    render_plan(plan, Console(file=file, width=300))
    return " ".join(file.getvalue().split())


@pytest.mark.parametrize(
    ("place", "gib", "changes", "expected"),
    [
        ("memory", 2, {}, "features are kept in host memory: 2.00 GiB"),
        ("disk", 2, {}, "features are kept on disk: 2.00 GiB"),
        (
            "memory",
            2,
            {"hardware": {"devices": 2}, "strategy": "ddp"},
            "kept in host memory: 2.00 GiB, on each rank samples are dealt anew in each epoch: in "
            "the second a rank finds 50% of its pages; vision_cache=disk shares them among ranks",
        ),
        (
            "memory",
            12,
            {},
            "of 12.0 GiB of the vision tower's features 8.0 are kept in host memory; raise "
            "vision_cache.max_gib to keep all",
        ),
    ],
)
def test_it_tells_where_features_are_kept_and_whether_all_are(
    reference: Callable[..., Plan], place: Place, gib: int, changes: dict[str, Any], expected: str
) -> None:
    kept = KeptFeatures(place=place, num_bytes=gib * GIB, max_bytes=8 * GIB)
    plan = reference(page_features=kept, **changes)
    assert expected in _shown(plan)
    assert plan_to_dict(plan)["page_features"] == {
        "place": place,
        "num_bytes": gib * GIB,
        "max_bytes": 8 * GIB,
    }


def test_it_says_nothing_where_none_are_kept(reference: Callable[..., Plan]) -> None:
    assert "features" not in _shown(reference(page_features=KeptFeatures(place="none")))


@pytest.mark.parametrize(("num_bytes", "gib"), [(2 * GIB, 2), (12 * GIB, 8)])
def test_they_count_as_host_memory(
    reference: Callable[..., Plan], num_bytes: int, gib: int
) -> None:
    """On a CPU that is the device's own, of which checkpointing takes the rest."""

    def memory(accelerator: str, place: Place) -> Any:
        hardware = {"accelerator": accelerator, "devices": 2}
        kept = KeptFeatures(place=place, num_bytes=num_bytes, max_bytes=8 * GIB)
        return reference(hardware=hardware, strategy="ddp", page_features=kept).memory

    kept, files = memory("cuda", "memory"), memory("cuda", "disk")
    assert (kept.host, files.host, kept.total) == (2 * gib, 0, files.total)
    kept, files = memory("cpu", "memory"), memory("cpu", "disk")
    assert kept.host == files.host == 0
    assert kept.total - files.total == kept.features == gib
