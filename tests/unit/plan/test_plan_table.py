from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from aes.plan import Lengths, Plan, plan_to_dict, render_plan

Reference = Callable[..., Plan]


def _render(plan: Plan, width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    render_plan(plan, Console(file=file, width=width, force_terminal=terminal))
    return file.getvalue()


def _flat(plan: Plan) -> str:
    return " ".join(_render(plan, width=300).split())


@pytest.mark.parametrize("width", [80, 120])
def test_it_is_plain_when_piped_and_stays_within_the_terminal(
    reference: Reference, width: int
) -> None:
    text = _render(reference(), width)
    assert "\x1b" not in text
    assert text.isascii()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 24
    assert "\x1b" in _render(reference(), width, terminal=True)


def test_the_numbers_that_decide_are_on_it(reference: Reference) -> None:
    plan = reference()
    text = _flat(plan)
    for part in (
        "Qwen3-VL-30B-A3B-Instruct in bf16 on 1 x GPU, strategy single",
        "31.077 B parameters: experts 28.991 B, attention 906.0 M, vision tower 415.9 M, "
        "embeddings 311.2 M, lm_head 311.2 M, rest 142.2 M",
        "trained 6,684,672 (0.02%): LoRA: attention 6,684,672",
        "345 read, 340 kept, 3 shrunk, 5 dropped (no scores)",
        "300 train, 40 validation, 0 test",
        "300 to train on, 576 tokens each, glyphs 17 to 20 px",
        "longest 2,048 (essay_299); limit 2,048",
        "weights 57.9 +",
        "fits: ",
        "114 (38 an epoch) of 8 samples = 2 x 4 x 1; an epoch's last 4",
        "never reached in 114",
        f", price {plan.time.cost:.2f}: training",
    ):
        assert part in text
    assert "Blockers" not in text


def test_blockers_stand_last(reference: Reference, lengths: Callable[..., Lengths]) -> None:
    plan = reference(hardware={"memory_gib": 24.0}, data={"validation": lengths([])})
    text = _flat(plan)
    assert "DOES NOT FIT" in text
    assert text.index("Advice - no validation samples") < text.index("Blockers - needs")


def test_each_trained_part_has_its_own_count(reference: Reference) -> None:
    parts = {"embeddings": (9000, 0), "LoRA: attention": (600, 600), "trained whole": (400, 400)}
    text = _flat(reference(parameters=parts))
    assert "trained 1,000 (10.00%): LoRA: attention 600; trained whole 400" in text
    whole = _flat(reference(parameters={"embeddings": (9000, 9000)}))
    assert "9,000 parameters, all trained: embeddings 9,000" in whole
    assert "trained 9,000" not in whole


def test_a_name_in_brackets_is_not_read_as_markup(reference: Reference) -> None:
    plan = reference(data={"dropped": {"[bold]title[/bold]": 2}})
    assert "2 dropped ([bold]title[/bold])" in _flat(plan)


def test_plan_json_holds_it_all(reference: Reference) -> None:
    plan = reference()
    read = json.loads(json.dumps(plan_to_dict(plan), allow_nan=False))
    assert read["memory"]["fits"] is True
    assert read["steps"]["total"] == 114
    assert read["parameters"]["experts"] == {"total": 28_991_029_248, "trainable": 0}
    assert read["train"]["longest_id"] == "essay_299"
    assert reference() == plan


@pytest.mark.parametrize("width", [80, 120])
def test_strategies_stand_side_by_side_where_there_is_a_choice(
    reference: Reference, width: int
) -> None:
    plan = reference(hardware={"devices": 4}, strategy="zero3")
    lines = _render(plan, width).splitlines()
    assert max(map(len, lines)) <= width
    at = next(i for i, line in enumerate(lines) if line.startswith("Strategies"))
    rows = [line.split() for line in lines[at + 1 : at + 6]]
    for row, costs in zip(rows, plan.strategies, strict=True):
        assert row[:2] == [costs.strategy, f"{costs.memory.total:.1f}"]
        assert row[2] == "fits"
        assert f"{costs.communication.step_s:.2f}" in row
    assert "Strategies" not in _flat(reference())
    assert "Strategies" in _flat(reference(hardware={"memory_gib": 24.0}))


def test_what_comes_from_other_ranks_is_told(reference: Reference) -> None:
    text = _flat(reference(hardware={"devices": 4}, strategy="zero3"))
    assert "93.3 GB a full step to each of 4 devices, 0.6 s at 80% of 200 GB/s" in text
    assert "weights: 46.6 GB x 2 passes x 1 micro-batches; gradients 20.1 MB" in text
    assert "a validation: 93.3 GB, 0.6 s" in text
    assert "of it gathering)" in text
    whole = _flat(reference(hardware={"devices": 4}, strategy="ddp"))
    assert "40.1 MB a full step to each of 4 devices" in whole
    assert "gathering" not in whole
    assert "Links" not in _flat(reference())


def test_shards_in_host_memory_are_told(reference: Reference) -> None:
    text = _flat(reference(strategy="zero3_offload"))
    assert "in the host memory of each node besides: 58.0 GiB" in text
    assert "a full step between a device and host memory" in text
    assert "weights: 0.0" not in text


def test_plan_json_holds_the_strategies_too(reference: Reference) -> None:
    plan = reference(hardware={"devices": 4}, strategy="zero3")
    read = json.loads(json.dumps(plan_to_dict(plan), allow_nan=False))
    assert read["communication"]["passes"] == 2
    fits = {costs["strategy"]: costs["memory"]["fits"] for costs in read["strategies"]}
    assert fits == dict.fromkeys(("ddp", "zero2", "fsdp2", "zero3", "zero3_offload"), True)
