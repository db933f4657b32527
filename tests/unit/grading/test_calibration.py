"""Calibration: fitted maps against numpy and scikit-learn, and what no map may do."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from aes.grading import CalibrationSpec
from aes.grading.calibration import Calibration, Curve, Method
from aes.grading.calibration_file import load_calibration, save_calibrations
from aes.grading.calibration_fit import MIN_SOURCES, cross_fit, fit_calibration
from aes.grading.deductions import deduct, with_deductions, with_sums
from aes.metrics.agreement import continuous_kappa
from aes.records import Example, Grade, Marked
from aes.rubric import Cap, Deductions, Rubric, Trait

METHODS: tuple[Method, ...] = ("linear", "isotonic")
TRAITS = {
    "content": Trait(label="", description="", minimum=0, maximum=20, levels=()),
    "language": Trait(label="", description="", minimum=8, maximum=12, levels=()),
}
RULES = Deductions(
    missing_title=2,
    wrong_character=0,
    wrong_characters_free=0,
    wrong_characters_maximum=0,
    expected_chars=0,
    short_points=0,
    short_step_chars=1,
    caps=(Cap(below_chars=400, total=15),),
)
BANDS: Any = ({"label": "", "minimum": 8},)
RUBRIC = Rubric(title="两项", traits=TRAITS, bands=BANDS, deductions=RULES)


def grade_of(id_: str, content: float, language: float = 10.0, spread: float = 1.0) -> Grade:
    expected = {"content": content, "language": language}
    scores = {name: math.floor(value + 0.5) for name, value in expected.items()}
    grade = Grade(id=id_, scores=scores, expected=expected, spread=dict.fromkeys(expected, spread))
    return with_sums(grade, RUBRIC)


def marked_of(
    number: int, content: float, gold: int, *, language: float = 10.0, **changes: Any
) -> Marked:
    # Gold of language runs through its range, so that it has a spread.
    plain: dict[str, Any] = {
        "id": f"e{number}",
        "source": f"e{number}",
        "group": "",
        "num_chars": 500,
        "gold": {"content": gold, "language": 8 + number % 5},
        "gold_text": "",
        "grade": grade_of(f"e{number}", content, language + (number % 5 - 2) / 2),
    }
    return Marked(**plain | changes)


def random_marked(num: int, seed: int, **changes: Any) -> list[Marked]:
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 21, num)
    raw = np.clip(8 + 0.3 * gold + rng.normal(0, 2, num), 0, 20)
    pairs = enumerate(zip(raw, gold, strict=True))
    return [marked_of(i, float(r), int(g), **changes) for i, (r, g) in pairs]


def contents(marked: Sequence[Marked]) -> list[float]:
    return [m.grade.expected["content"] for m in marked]


def calibrated(marked: Sequence[Marked], method: Method) -> list[Marked]:
    calibration = fit_calibration(marked, RUBRIC, method)
    return [calibration.apply_to(m, RUBRIC) for m in marked]


def test_linear_moves_mean_and_spread_to_those_of_the_gold() -> None:
    gold = [8, 9, 10, 11, 12, 8, 9, 10, 11, 12]
    marked = [marked_of(i, 14 + g / 10, g) for i, g in enumerate(gold)]
    assert contents(calibrated(marked, "linear")) == pytest.approx(gold)
    noisy = [marked_of(i, 10 + 0.1 * g + 0.3 * (-1) ** i, g) for i, g in enumerate(gold + [13] * 2)]
    found = contents(calibrated(noisy, "linear"))
    golden = [m.gold["content"] for m in noisy]
    assert np.mean(found) == pytest.approx(np.mean(golden))
    assert np.std(found) == pytest.approx(np.std(golden))


@pytest.mark.parametrize("seed", range(3))
def test_isotonic_is_scikit_learns(seed: int) -> None:
    marked = random_marked(60, seed)
    raw = contents(marked)
    truth = IsotonicRegression(y_min=0, y_max=20, out_of_bounds="clip")
    truth.fit(raw, [m.gold["content"] for m in marked])
    curve = fit_calibration(marked, RUBRIC, "isotonic").curves["content"]
    probes = np.linspace(0, 20, 101)
    assert [curve.at(p, (0, 20)) for p in probes] == pytest.approx(truth.predict(probes))


@pytest.mark.parametrize("method", METHODS)
@given(
    pairs=st.lists(
        st.tuples(st.floats(0, 20), st.integers(0, 20)), min_size=MIN_SOURCES, max_size=30
    ),
    probes=st.lists(st.tuples(st.floats(0, 20), st.floats(8, 12), st.floats(0, 6)), min_size=2),
)
@settings(deadline=None)
def test_maps_never_fall_and_stay_in_range(
    method: Method,
    pairs: list[tuple[float, int]],
    probes: list[tuple[float, float, float]],
) -> None:
    marked = [marked_of(i, raw, gold) for i, (raw, gold) in enumerate(pairs)]
    calibration = fit_calibration(marked, RUBRIC, method)
    grades = [calibration.apply(grade_of("x", *probe), RUBRIC) for probe in sorted(probes)]
    for name, (low, high) in RUBRIC.ranges.items():
        assert all(low <= g.scores[name] <= high for g in grades)
        assert all(low <= g.expected[name] <= high for g in grades)
        assert all(math.isfinite(g.spread[name]) and g.spread[name] >= 0 for g in grades)
        assert all(g.scores[name] == math.floor(g.expected[name] + 0.5) for g in grades)
    ascending = [g.expected["content"] for g in grades]
    assert all(a <= b + 1e-9 for a, b in pairwise(ascending))
    for grade in grades:
        assert grade.subtotal == sum(grade.scores.values()) == grade.total
        assert grade.expected_subtotal == pytest.approx(sum(grade.expected.values()))
        assert grade.uncertainty == pytest.approx(math.hypot(*grade.spread.values()))


@pytest.mark.parametrize("method", METHODS)
@given(gold=st.lists(st.integers(0, 20), min_size=MIN_SOURCES, max_size=30))
@settings(deadline=None)
def test_perfect_predictions_stay_as_they_are(method: Method, gold: list[int]) -> None:
    marked = [
        marked_of(i, float(g), g, grade=grade_of(f"e{i}", g, 8 + i % 5)) for i, g in enumerate(gold)
    ]
    for before, after in zip(marked, calibrated(marked, method), strict=True):
        assert after.grade.scores == before.grade.scores
        assert after.grade.expected == pytest.approx(dict(before.grade.expected))
        if method == "linear":
            assert after.grade.spread == pytest.approx(dict(before.grade.spread))


@pytest.mark.parametrize("method", METHODS)
def test_calibration_helps_a_grader_that_shrinks_the_scale(method: Method) -> None:
    marked = random_marked(120, 1)
    gold = torch.tensor([m.gold["content"] for m in marked], dtype=torch.float64)
    raw = torch.tensor(contents(marked), dtype=torch.float64)
    found = torch.tensor(contents(cross_fit(marked, RUBRIC, method, num_folds=5, seed=1)))
    assert continuous_kappa(found, gold) > continuous_kappa(raw, gold) + 0.03
    if method == "linear":  # what it is for: grades are spread nearly as the markers spread them
        assert found.std() / gold.std() > 0.85  # and wholly, but for the ends of the range
        assert raw.std() / gold.std() < 0.5
    else:  # what it is for
        assert (found - gold).square().mean() < (raw - gold).square().mean()


def test_a_flat_stretch_makes_no_grade_certain() -> None:
    curve = Curve(raw=(5.0, 10.0, 11.0), calibrated=(5.0, 5.0, 15.0))
    assert curve.spread_at(7.0, 1.0, (0, 20)) == 0.0
    assert curve.spread_at(9.5, 1.0, (0, 20)) == pytest.approx(1.0 * (10.0 - 5.0) / 2.0)
    straight = Curve(raw=(0.0, 20.0), calibrated=(0.0, 20.0))
    for score, spread in [(10.0, 2.0), (19.9, 3.0), (0.0, 3.0), (7.0, 0.0)]:
        assert straight.spread_at(score, spread, (0, 20)) == pytest.approx(spread)
    assert Curve(raw=(0.0, 20.0), calibrated=(0.0, 10.0)).spread_at(8.0, 2.0, (0, 20)) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_line_items_still_add_up_and_the_cap_is_found_anew(method: Method) -> None:
    marked = []
    for i, m in enumerate(random_marked(40, 2)):
        facts = Example(id=m.id, messages=(), has_title=i % 2 == 0, num_chars=300 + 10 * i)
        items = deduct(m.grade.subtotal, facts, RUBRIC)
        marked.append(replace(m, num_chars=300 + 10 * i, grade=with_deductions(m.grade, items)))
    codes = set()
    for i, m in enumerate(calibrated(marked, method)):
        grade = m.grade
        facts = Example(id=m.id, messages=(), has_title=i % 2 == 0, num_chars=300 + 10 * i)
        assert grade.total == grade.subtotal - sum(d.points for d in grade.deductions)
        assert grade.total >= RUBRIC.minimum_total
        assert grade.deductions == deduct(grade.subtotal, facts, RUBRIC)
        codes |= {d.code for d in grade.deductions}
    assert codes == {"missing_title", "cap"}


def test_unread_answers_pass_and_teach_nothing() -> None:
    marked = random_marked(30, 3)
    bad = replace(marked[0], id="bad", source="bad", grade=Grade(id="bad", parse_error="?"))
    blind = replace(marked[1], id="blind", source="blind", gold={})
    for method in METHODS:
        clean = fit_calibration(marked, RUBRIC, method)
        assert fit_calibration([*marked, bad, blind], RUBRIC, method) == clean
        assert clean.num_essays == 30
        assert clean.apply_to(bad, RUBRIC) == bad


@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_can_be_fitted_scores_stay_and_the_reason_is_told(method: Method) -> None:
    few = random_marked(MIN_SOURCES - 1, 4)
    copies = [*few, *(replace(m, id=m.id + "-copy") for m in few)]
    for marked, reason in [
        (few, "9 essays are too few to fit on; it takes 10"),
        (copies, "9 essays are too few to fit on; it takes 10"),
        ([], "0 essays are too few to fit on; it takes 10"),
        (
            [marked_of(i, 11.5, i) for i in range(12)],
            "the model gives all 12 essays the same score",
        ),
        ([marked_of(i, float(i), 7) for i in range(12)], "all 12 essays have the same gold score"),
    ]:
        calibration = fit_calibration(marked, RUBRIC, method)
        assert calibration.unchanged["content"] == reason
        assert "content" not in calibration.curves
        # 4 is the likeliest score and 11.5 the mean: where nothing is fitted, both stay.
        greedy = replace(grade_of("x", 11.5), scores={"content": 4, "language": 10})
        assert calibration.apply(greedy, RUBRIC).scores["content"] == 4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("with_folds", [False, True])
@given(seed=st.integers(0, 99), which=st.integers(0, 29), gold=st.integers(0, 20))
@settings(deadline=None, max_examples=15)
def test_no_essay_is_calibrated_by_its_own_gold(
    method: Method, with_folds: bool, seed: int, which: int, gold: int
) -> None:
    # Two copies of each of 30 sources; folds part the copies, so sources must be minded as well.
    marked = [
        replace(m, source=f"s{i % 30}", fold=i // 7 % 5 if with_folds else None)
        for i, m in enumerate(random_marked(60, seed))
    ]
    own = [which, which + 30]
    told = [
        replace(m, gold={"content": gold, "language": 12}) if i in own else m
        for i, m in enumerate(marked)
    ]
    before = cross_fit(marked, RUBRIC, method, num_folds=5, seed=seed)
    after = cross_fit(told, RUBRIC, method, num_folds=5, seed=seed)
    assert [before[i].grade for i in own] == [after[i].grade for i in own]
    assume(any(marked[i].gold["content"] != gold for i in own))
    assert [m.grade for m in before] != [m.grade for m in after]
    assert [m.id for m in after] == [m.id for m in marked]


def test_folds_are_used_where_all_have_one_and_there_are_several() -> None:
    marked = random_marked(40, 5)
    folds = [replace(m, fold=i % 4) for i, m in enumerate(marked)]
    calibration = fit_calibration([m for m in folds if m.fold != 2], RUBRIC, "linear")
    found = cross_fit(folds, RUBRIC, "linear", num_folds=5, seed=1)
    for before, after in zip(folds, found, strict=True):
        if before.fold == 2:
            assert after == calibration.apply_to(before, RUBRIC)
    by_source = cross_fit(marked, RUBRIC, "linear", num_folds=5, seed=1)
    one_fold = cross_fit(
        [replace(m, fold=0) for m in marked], RUBRIC, "linear", num_folds=5, seed=1
    )
    assert contents(one_fold) == contents(by_source) != contents(found)
    # The order of the essays decides nothing.
    turned = cross_fit(marked[::-1], RUBRIC, "linear", num_folds=5, seed=1)
    assert contents(turned)[::-1] == pytest.approx(contents(by_source))


def test_one_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="num_folds must be at least 2"):
        cross_fit(random_marked(20, 6), RUBRIC, "linear", num_folds=1, seed=1)


@pytest.mark.parametrize(
    ("raw", "found"), [((1.0,), (1.0, 2.0)), ((2.0, 2.0), (1.0, 2.0)), ((1.0, 2.0), (2.0, 1.0))]
)
def test_a_curve_that_is_none_is_refused(raw: Any, found: Any) -> None:
    with pytest.raises(ValueError):
        Curve(raw=raw, calibrated=found)


def fitted(seed: int = 7) -> list[Calibration]:
    return [fit_calibration(random_marked(30, seed), RUBRIC, method) for method in METHODS]


@given(seed=st.integers(0, 1000), num=st.integers(0, 40))
@settings(deadline=None, max_examples=25)
def test_the_file_gives_back_what_it_got(tmp_path_factory: Any, seed: int, num: int) -> None:
    path = tmp_path_factory.mktemp("run") / "calibration.json"
    calibrations = [fit_calibration(random_marked(num, seed), RUBRIC, m) for m in METHODS]
    save_calibrations(path, calibrations, RUBRIC, split="val", adapter_digest="abc")
    for calibration in calibrations:
        for digest in ("", "abc"):
            loaded = load_calibration(path, RUBRIC, calibration.method, adapter_digest=digest)
            assert loaded == calibration


def test_the_file_says_what_it_was_fitted_for(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    save_calibrations(path, fitted(), RUBRIC, split="val", adapter_digest="abc")
    written = json.loads(path.read_text(encoding="utf-8"))
    assert (written["rubric"], written["split"], written["adapter_digest"]) == (
        "两项",
        "val",
        "abc",
    )
    assert written["traits"] == [["content", 0, 20], ["language", 8, 12]]
    assert [c["num_essays"] for c in written["calibrations"]] == [30, 30]
    assert [p.name for p in tmp_path.iterdir()] == ["calibration.json"]


def _spoilt(content: dict[str, Any], *keys: Any, value: Any) -> str:
    inner: Any = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    "keys_and_value",
    [
        (("version",), 2),
        (("calibrations", 0, "method"), "cubic"),
        (("calibrations", 0, "curves"), {}),
        (("calibrations", 0, "curves", "content", "raw"), [3, 2]),
        (("calibrations", 0, "curves", "content", "calibrated"), [0, float("nan")]),
        (("surplus",), 1),
        None,
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path: Path, keys_and_value: Any) -> None:
    path = tmp_path / "calibration.json"
    save_calibrations(path, fitted(), RUBRIC, split="val")
    text = path.read_text(encoding="utf-8")
    if keys_and_value is None:
        path.write_text(text[: len(text) // 2], encoding="utf-8")
    else:
        keys, value = keys_and_value
        path.write_text(_spoilt(json.loads(text), *keys, value=value), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is not a calibration .* run python evaluate") as caught:
        load_calibration(path, RUBRIC, "linear")
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .* run=.* split=val, which makes one"):
        load_calibration(tmp_path / "calibration.json", RUBRIC, "linear")
    with pytest.raises(ValueError, match=r"cannot be read"):
        load_calibration(tmp_path, RUBRIC, "linear")


def test_a_file_of_another_rubric_adapter_or_method_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    save_calibrations(path, fitted()[:1], RUBRIC, split="val", adapter_digest="abc")
    turned = replace(RUBRIC, traits=dict(reversed(TRAITS.items())))
    wider = replace(RUBRIC, traits=TRAITS | {"content": replace(TRAITS["content"], maximum=30)})
    for other in (replace(RUBRIC, title="别的"), turned, wider):
        with pytest.raises(
            ValueError, match="was fitted for the rubric 两项 with content 0-20, la"
        ):
            load_calibration(path, other, "linear")
    with pytest.raises(ValueError, match="another adapter"):
        load_calibration(path, RUBRIC, "linear", adapter_digest="abd")
    with pytest.raises(ValueError, match="holds no isotonic calibration"):
        load_calibration(path, RUBRIC, "isotonic")


def test_settings(read_conf: Any) -> None:
    none = read_conf("calibration/none")
    assert CalibrationSpec(**none) == CalibrationSpec(method="none", path=None)
    for method in METHODS:
        spec = CalibrationSpec(**none | read_conf(f"calibration/{method}"))
        assert (spec.method, spec.path) == (method, None)
    with pytest.raises(ValueError, match="path does nothing without a method"):
        CalibrationSpec(**none | {"path": "other.json"})
