"""The embedded sample and its corpus: complete, clean, split before it climbs the ladder."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from aes.corpus import SampleCorpus, load_sample

CONF = Path(__file__).parents[3] / "conf" / "data" / "sample.yaml"
RANGES = dict.fromkeys(SampleCorpus.traits, (0, 20))


def make(**keys: Any) -> SampleCorpus:
    conf = yaml.safe_load(CONF.read_text(encoding="utf-8"))
    assert conf.pop("_target_") == "aes.corpus.SampleCorpus"
    assert conf.pop("split_seed") == "${seed}"
    return SampleCorpus(**(conf | {"split_seed": 4} | keys))


def test_sample_is_complete() -> None:
    essays = load_sample()
    assert len(essays) == 28 == len({e.id for e in essays})
    for essay in essays:
        assert essay.title and essay.topic and essay.comment and essay.source == essay.id
        assert tuple(essay.scores) == SampleCorpus.traits
        assert "\n\n" not in essay.text


def test_sample_has_no_problem() -> None:
    reading = make().read(find_undrawable=lambda text: [], open_page=Path.stat, ranges=RANGES)
    assert reading.problems == () and not reading.stops_run
    assert reading.counts == {"read": 28, "kept": 28, "dropped": 0}


def test_each_side_climbs_the_ladder_by_itself() -> None:
    essays = make().read(find_undrawable=lambda text: [], open_page=Path.stat, ranges=RANGES).essays
    split = make().split(essays, seed=4)
    parts = (split.train, split.val, split.test)
    sources = [{e.source for e in part} for part in parts]
    assert [len(part) for part in sources] == [18, 4, 6] and len(set().union(*sources)) == 28
    assert [len(part) for part in parts] == [144, 32, 48]
    totals = sorted(sum(e.scores.values()) for e in split.test if e.operation == "cut_100")
    assert totals[0] < 40 and totals[-1] > 80


def test_without_ladder_and_with_fewer_samples() -> None:
    essays = load_sample()
    plain = make(ladder=False).split(essays, seed=4)
    assert {e.operation for e in plain.train + plain.val} == {""}
    few = make(max_samples=10).split(essays, seed=4)
    assert (len(few.train), len(few.val), few.num_left_out) == (10, 32, 134)
    assert make(max_samples=144).split(essays, seed=4).num_left_out == 0
    assert len({e.source for e in few.train}) > 3


@pytest.mark.parametrize(
    "keys",
    [
        {"copies": 7},
        {"copies": 0},
        {"val_fraction": 1.0},
        {"on_problem": "ask"},
        {"colour": 1},
        {"fold": 0},
        {"num_folds": 5},
        {"fold": 5, "num_folds": 5},
    ],
)
def test_wrong_value_fails(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**keys)
