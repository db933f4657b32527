from __future__ import annotations

from collections.abc import Callable

import pytest

from aes.model import LoraSpec, ModelSpec, NoAdapterSpec
from aes.plan import Lengths, Plan
from aes.plan.advice import advise, load_rules

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
def test_when_a_rule_speaks(setting: str, samples: float, value: float, speaks: bool) -> None:
    settings = {"samples": samples, setting: value}
    assert len(advise(settings, is_random=False)) == speaks
    assert not advise(settings, is_random=True)


def test_every_rule_has_a_reason_and_can_be_said() -> None:
    values = {"value": 1.0, "samples": 1.0}
    for rule in load_rules():
        assert rule.because
        assert rule.say.format(**values)
        assert rule.samples[0] < rule.samples[1]
        assert rule.range[0] <= rule.range[1]


def test_the_reference_recipe_needs_no_advice(reference: Reference) -> None:
    assert reference().advice == ()


def test_advice_names_the_setting_and_its_value(reference: Reference) -> None:
    adapter = LoraSpec(
        rank=128, alpha=1024, dropout=0.5, targets=("attention",), modules_to_save=()
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
