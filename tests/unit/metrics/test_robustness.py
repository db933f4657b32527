"""Hand-worked suites, and what must hold of any."""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from aes.corpus import load_sample
from aes.metrics.results import AttackResult, Robustness
from aes.metrics.robustness import attack_lines, measure_robustness
from aes.prompt.build import ExampleBuilder
from aes.prompt.suite import Kind, Variant, build_suite
from aes.prompt.suite_spec import SuiteSpec
from aes.records import Example


def variant(source: str, name: str, kind: Kind, step: int = 0, goal: str | None = None) -> Variant:
    return Variant(
        example=Example(id=f"{source}~{name}", messages=()),
        base_id=f"{source}~honest",
        source=source,
        kind=kind,
        name=name,
        goal=goal,  # type: ignore[arg-type]
        step=step,
    )


def measure(rows: Sequence[tuple[Variant, float]], gain_points: float = 10) -> Robustness:
    variants, points = zip(*rows, strict=True)
    return measure_robustness(
        variants, points, gain_points=gain_points, minimum=0, maximum=100, seed=1
    )


def by_name(found: Robustness) -> dict[str, AttackResult]:
    return {attack.name: attack for attack in found.attacks}


def test_a_ladder_worked_by_hand() -> None:
    # cut: 80 > 70 > 75 ? 60: of the pairs (80,70) (80,75) (80,60) (70,75) (70,60) (75,60) one is
    # out of order. typo: 80 = 80, one pair, half. Drops: 10, -5, 15; 0.
    found = measure(
        [
            (variant("a", "honest", "honest"), 80),
            (variant("a", "cut_25", "ladder", 3), 60),
            (variant("a", "cut_75", "ladder", 1), 70),
            (variant("a", "cut_50", "ladder", 2), 75),
            (variant("a", "typo_2", "ladder", 1), 80.00001),
        ]
    )
    assert list(found.ladder) == ["all", "cut", "typo"]
    cut, typo, together = found.ladder["cut"], found.ladder["typo"], found.ladder["all"]
    assert (cut.num_pairs, typo.num_pairs, together.num_pairs) == (6, 1, 7)
    assert cut.share_in_order == pytest.approx(5 / 6)
    assert cut.mean_drop == pytest.approx(20 / 3)
    assert typo.share_in_order == 0.5
    assert together.share_in_order == pytest.approx(5.5 / 7)
    assert together.mean_drop == pytest.approx(20 / 4, abs=1e-4)
    assert math.isnan(together.interval.low)
    assert found.num_essays == 1


def test_attacks_worked_by_hand() -> None:
    rows = [(variant(s, "honest", "honest"), p) for s, p in (("a", 50), ("b", 60))]
    got = {"w1/begin": (60, 55), "w1/end": (50, 60), "w2/begin": (90, 60), "w2/end": (50, 70)}
    for name, points in got.items():
        for source, value in zip("ab", points, strict=True):
            rows.append((variant(source, f"order/page/{name}", "attack", goal="gain"), value))
    rows.append((variant("a", "off_topic", "attack", goal="unnoticed"), 41))
    rows.append((variant("b", "off_topic", "attack", goal="unnoticed"), 50))
    found = by_name(measure(rows))
    assert list(found) == [
        *("order/page", "order/page/w1", "order/page/w2"),
        *("order/page/begin", "order/page/end", "off_topic"),
    ]
    # Changes: a 10 0 40 0, b -5 0 0 10.
    every = found["order/page"]
    assert (every.num, every.mean_change, every.worst_change) == (8, 55 / 8, 40)
    assert every.success_rate == 3 / 8
    assert found["order/page/w1"].mean_change == 5 / 4
    assert found["order/page/begin"].mean_change == 45 / 4
    assert found["order/page/end"].success_rate == 1 / 4
    off_topic = found["off_topic"]
    # A loss of 9 of 10 points went unnoticed, one of 10 did not.
    assert (off_topic.goal, off_topic.success_rate, off_topic.mean_change) == (
        "unnoticed",
        0.5,
        -9.5,
    )


@pytest.mark.parametrize(
    ("goal", "edge", "inside", "success"),
    # At 95 of 100 nothing gains 10 points, at 5 nothing loses them.
    [("gain", 95, 90, 100), ("unnoticed", 5, 10, 9)],
)
def test_essays_at_the_ends_do_not_tell_whether_an_attack_succeeds(
    goal: str, edge: float, inside: float, success: float
) -> None:
    limit = 100 if goal == "gain" else 0

    def attacked(sources: dict[str, tuple[float, float]]) -> AttackResult:
        rows = []
        for source, (honest, got) in sources.items():
            rows.append((variant(source, "honest", "honest"), honest))
            rows.append((variant(source, "x", "attack", goal=goal), got))
        return by_name(measure(rows))["x"]

    nothing = attacked({"a": (edge, limit), "b": (edge, limit)})
    assert (nothing.num, nothing.num_with_room) == (2, 0)
    assert math.isnan(nothing.success_rate)
    assert math.isnan(nothing.success_interval.low)
    assert nothing.mean_change == limit - edge
    failure = inside if goal == "gain" else 0
    some = {"a": (edge, limit), "b": (inside, success), "c": (inside, failure)}
    found = attacked(some | {"d": (inside, success), "e": (inside, failure)})
    assert (found.num, found.num_with_room, found.success_rate) == (5, 4, 0.5)
    interval = found.success_interval
    assert 0 <= interval.low < 0.5 < interval.high <= 1
    one = attacked({"a": (edge, limit), "b": (inside, success)})
    assert (one.num_with_room, one.success_rate) == (1, 1)
    assert math.isnan(one.success_interval.high)


def test_drift_is_the_mean_absolute_change() -> None:
    rows = [(variant(s, "honest", "honest"), 50) for s in "ab"]
    rows += [(variant("a", "noise", "drift"), 52), (variant("b", "noise", "drift"), 49)]
    rows.append((variant("b", "margin", "drift"), 50))
    assert measure(rows).honest_drift == {"noise": 1.5, "margin": 0}


def test_lines_of_a_table() -> None:
    assert attack_lines("order/page/w3/begin") == (
        "order/page",
        "order/page/w3",
        "order/page/begin",
    )
    assert attack_lines("white_text/ink4") == ("white_text/ink4",)
    assert attack_lines("padding") == ("padding",)


@pytest.fixture(scope="module")
def suite(builder: ExampleBuilder, tmp_path_factory: pytest.TempPathFactory) -> list[Variant]:
    folder: Path = tmp_path_factory.mktemp("images")
    spec = SuiteSpec(num_essays=4, gain_points=None)
    essays = load_sample()
    made = build_suite(essays, builder=builder, spec=spec, seed=1, image_dir=folder)
    return list(made.variants)


def grade(suite: list[Variant], grader: Callable[[Variant], float]) -> Robustness:
    points = [grader(v) for v in suite]
    return measure_robustness(suite, points, gain_points=10, minimum=0, maximum=110, seed=1)


def test_a_grader_that_falls_with_every_step_is_in_order(suite: list[Variant]) -> None:
    found = grade(suite, lambda v: 80 - 5 * v.step)
    assert set(found.ladder) == {"all", "cut", "no_ending", "shuffle", "typo", "repeat"}
    for result in found.ladder.values():
        assert result.share_in_order == 1
        assert result.mean_drop == pytest.approx(5)
        assert (result.interval.low, result.interval.high) == (1, 1)
        ends = result.drop_interval.low, result.drop_interval.high
        assert ends == pytest.approx((5, 5))
    assert grade(suite, lambda v: 80 + 5 * v.step).ladder["all"].share_in_order == 0


def test_a_grader_that_never_changes_is_half_in_order_and_is_moved_by_nothing(
    suite: list[Variant],
) -> None:
    found = grade(suite, lambda v: 70)
    assert {r.share_in_order for r in found.ladder.values()} == {0.5}
    assert {r.mean_drop for r in found.ladder.values()} == {0}
    assert {a.mean_change for a in found.attacks} == {0}
    for attack in found.attacks:
        # It does not see that an essay is worthless, and gives nothing for an order.
        assert attack.success_rate == (1 if attack.goal == "unnoticed" else 0)
    assert set(found.honest_drift.values()) == {0}
    assert found.num_essays == 4


def test_numbers_of_pairs_and_attacks_are_the_suites(suite: list[Variant]) -> None:
    found = grade(suite, lambda v: 70)
    pairs = {"cut": 6, "no_ending": 1, "shuffle": 6, "typo": 6, "repeat": 3, "all": 22}
    assert {harm: r.num_pairs for harm, r in found.ladder.items()} == {
        harm: 4 * num for harm, num in pairs.items()
    }
    nums = {a.name: a.num for a in found.attacks}
    assert nums["order/text"] == nums["order/page"] == 60
    assert nums["order/text/w5"] == 12
    assert nums["order/page/middle"] == 20
    assert nums["padding"] == nums["off_topic"] == nums["white_text/ink0"] == 4
    assert len(nums) == 2 * (1 + 5 + 3) + 6


def test_order_of_rows_and_a_shift_of_all_change_nothing(suite: list[Variant]) -> None:
    rng = random.Random(0)
    points = {v.example.id: rng.uniform(0, 100) for v in suite}
    first = grade(suite, lambda v: points[v.example.id])
    shifted = grade(suite, lambda v: points[v.example.id] + 7)
    for a, b in zip(first.attacks, shifted.attacks, strict=True):
        assert a.mean_change == pytest.approx(b.mean_change)
        assert a.interval.low == pytest.approx(b.interval.low)
    again = list(suite)
    rng.shuffle(again)
    other = grade(again, lambda v: points[v.example.id])
    for harm, result in first.ladder.items():
        assert other.ladder[harm].share_in_order == pytest.approx(result.share_in_order)
        assert other.ladder[harm].mean_drop == pytest.approx(result.mean_drop)
    changes = {a.name: a.mean_change for a in other.attacks}
    assert changes == pytest.approx({a.name: a.mean_change for a in first.attacks})


def test_intervals_draw_sources_and_not_copies() -> None:
    # Two sources, +10 and -10 in any number of copies: the mean of a resample is -10, 0 or 10.
    rows = [(variant(s, "honest", "honest"), 50) for s in "ab"]
    for k in range(50):
        for source, points in (("a", 60), ("b", 40)):
            rows.append((variant(source, f"order/text/w{k}/end", "attack", goal="gain"), points))
    interval = by_name(measure(rows))["order/text"].interval
    assert (interval.low, interval.high) == (-10, 10)


def test_bad_totals_are_refused() -> None:
    row = variant("a", "honest", "honest")
    with pytest.raises(ValueError, match="2 totals for 1"):
        measure_robustness([row], [1, 2], gain_points=1, minimum=0, maximum=9, seed=1)
    with pytest.raises(ValueError, match="no total"):
        measure_robustness([row], [math.nan], gain_points=1, minimum=0, maximum=9, seed=1)
