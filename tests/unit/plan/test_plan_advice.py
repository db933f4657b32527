from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from aes.model import LoraSpec, ModelSpec, NoAdapterSpec
from aes.plan import Lengths, Plan
from aes.plan.advice import Rule, advise, load_rules

Reference = Callable[..., Plan]


@pytest.mark.parametrize(
    ("setting", "samples", "value", "speaks"),
    [
        ("adapter.rank", 300, 8, False),
        ("adapter.rank", 300, 64, True),
        ("adapter.rank", 20_000, 64, False),
        ("adapter.rank", 20_000, 8, True),
        ("alpha_over_rank", 300, 2, False),
        ("alpha_over_rank", 300, 4, True),
        ("adapter.dropout", 300, 0.05, False),
        ("adapter.dropout", 300, 0.3, True),
        ("trainer.max_epochs", 300, 3, False),
        ("trainer.max_epochs", 300, 20, True),
        ("trainer.max_epochs", 20_000, 10, True),
        ("adapter.dropout", 20_000, 0.1, True),
        ("trainer.max_epochs", 5_000, 3, False),
        ("trainer.max_epochs", 5_000, 6, True),
        ("optim.schedule", 300, "cosine", False),
        ("optim.schedule", 300, "linear", False),
        ("optim.schedule", 300, "constant", True),
        ("optim.schedule", 20_000, "cosine", False),
        ("optim.schedule", 20_000, "linear", True),
        ("optim.warmup_ratio", 300, 0.0, False),
        ("optim.warmup_ratio", 20_000, 0.0, True),
        ("lora_lr", 300, 5e-5, False),
        ("lora_lr", 300, 2e-3, True),
        ("full_lr", 300, 1e-4, True),
        ("glyph_px", 300, 10.3, True),
        ("glyph_px", 300, 20, False),
        ("num_validation", 300, 16, True),
        ("num_validation", 300, 60, False),
        ("limit_over_longest", 300, 1.4, False),
        ("limit_over_longest", 300, 8, True),
        ("padding_share", 300, 0.1, False),
        ("padding_share", 300, 0.3, True),
        ("validation_missing", 300, 0, False),
    ],
)
def test_when_a_rule_speaks(setting: str, samples: float, value: float | str, speaks: bool) -> None:
    settings: dict[str, float | str] = {"samples": samples, setting: value}
    assert len(advise(settings, strategy="zero3", is_random=False)) == speaks
    assert not advise(settings, strategy="zero3", is_random=True)


def test_every_rule_has_a_reason_and_can_be_said() -> None:
    values = {"samples": 1.0, "step_gb": 3.0, "whole_gb": 1.0}
    for rule in load_rules():
        assert rule.because
        assert rule.samples[0] < rule.samples[1]
        if rule.range is not None:
            assert rule.range[0] <= rule.range[1]
        value = "constant" if rule.range is None else 1.0
        assert rule.say.format(value=value, **values, strategy="zero3")


@pytest.mark.parametrize(
    "setting",
    [
        "adapter.rank",
        "alpha_over_rank",
        "adapter.dropout",
        "trainer.max_epochs",
        "optim.schedule",
        "optim.warmup_ratio",
    ],
)
def test_there_is_one_opinion_for_every_number_of_samples(setting: str) -> None:
    spans = sorted(rule.samples for rule in load_rules() if rule.setting == setting)
    assert spans[0][0] == 0 and spans[-1][1] == float("inf")
    assert all(end == start for (_, end), (start, _) in pairwise(spans))


def test_a_departing_schedule_is_told_in_the_plan(reference: Reference) -> None:
    (note,) = reference(schedule={"course": "constant"}).advice
    assert note.startswith("optim.schedule=constant: cosine or linear ends a short run gently")


def test_a_rule_judges_either_numbers_or_names() -> None:
    with pytest.raises(ValueError, match="range or among"):
        Rule(setting="optim.schedule", samples=(0, 1), say="", because="")


def test_the_reference_recipe_needs_no_advice(reference: Reference) -> None:
    assert reference().advice == ()


def test_advice_names_the_setting_and_its_value(reference: Reference) -> None:
    adapter = LoraSpec(
        rank=128,
        alpha=1024,
        dropout=0.5,
        targets=("attention",),
        modules_to_save=(),
        init_from=None,
    )
    plan = reference(adapter=adapter, lr=2e-3, data={"glyph_px": (10.3, 20.0)})
    assert [note.split(":")[0].split(" is ")[0] for note in plan.advice] == [
        "adapter.rank=128",
        "adapter.alpha",
        "adapter.dropout=0.5",
        "optim.lr=0.002",
        "glyphs of 10.3 px are hard to read; 16 px and more",
    ]
    assert not plan.blockers


def test_full_training_is_judged_by_its_own_rate(reference: Reference) -> None:
    advice = reference(adapter=NoAdapterSpec(), lr=1e-4).advice
    assert [note for note in advice if "every weight" in note]


def test_a_random_model_hears_only_what_holds_for_it(
    reference: Reference, model_spec: Callable[[str], ModelSpec], lengths: Callable[..., Lengths]
) -> None:
    nano = model_spec("nano")
    assert reference(model=nano, lr=2e-3, data={"glyph_px": (10, 10)}).advice == ()
    tiny = {"train": lengths([700] * 4), "validation": lengths([])}
    assert len(reference(model=nano, data=tiny).advice) == 2


def test_a_strategy_that_shards_a_model_that_fits_is_advised_against(reference: Reference) -> None:
    four = {"devices": 4}
    for name in ("ddp", "zero2"):
        assert not reference(hardware=four, strategy=name).advice
    for name in ("zero3", "fsdp2", "zero3_offload"):
        plan = reference(hardware=four, strategy=name)
        assert any("fits whole on each device: strategy=zero2 or ddp" in a for a in plan.advice)
    tight = reference(hardware=four | {"memory_gib": 40.0}, strategy="zero3")
    assert not [note for note in tight.advice if "fits whole" in note]


def test_gathering_that_takes_longer_than_computing_is_told(
    reference: Reference, lengths: Callable[..., Lengths]
) -> None:
    card = {"devices": 4, "memory_gib": 60.0}
    small = reference(hardware=card | {"micro_batch_size": 1}, strategy="zero3").advice
    assert [note for note in small if "a larger hardware.micro_batch_size gathers less" in note]
    large = reference(
        hardware=card | {"micro_batch_size": 32},
        strategy="zero3",
        data={"train": lengths([1900] * 2560, supervised=20)},
        global_batch_size=1024,
    ).advice
    assert not [note for note in large if "gathers less often" in note]


def test_large_sets_hear_what_the_second_reference_concluded_for_stage_3(
    reference: Reference, lengths: Callable[..., Lengths]
) -> None:
    large = {"train": lengths([1065] * 6000)}
    for strategy, speaks in (("zero2", False), ("zero3", True)):
        plan = reference(hardware={"devices": 4}, strategy=strategy, data=large)
        text = "; ".join(plan.advice)
        assert ("global_batch_size=8: with zero3 a larger one pays" in text) is speaks
        assert ("optim.warmup_ratio=0: with zero3" in text) is speaks
        assert ("optim.lr=5e-05: with zero3" in text) is speaks


@pytest.mark.parametrize(("memory_gib", "speaks"), [(79.1, True), (24.0, False)])
def test_offload_is_advised_against_where_it_is_not_needed(
    reference: Reference, memory_gib: float, speaks: bool
) -> None:
    for devices in (1, 4):
        hardware = {"devices": devices, "memory_gib": memory_gib, "micro_batch_size": 1}
        plan = reference(hardware=hardware, strategy="zero3_offload")
        assert any("is not needed here" in a for a in plan.advice) is (
            speaks or (devices == 4 and memory_gib == 24.0)
        )


def test_a_handful_of_steps_is_told_unless_it_was_asked_for(reference: Reference) -> None:
    few = {"global_batch_size": 1024, "hardware": {"devices": 4, "micro_batch_size": 32}}
    plan = reference(strategy="zero3", **few)
    assert [note for note in plan.advice if note.startswith("3 optimiser steps in all")]
    tried = reference(strategy="zero3", schedule={"max_steps": 2}, **few)
    assert not [note for note in tried.advice if "optimiser steps" in note]
