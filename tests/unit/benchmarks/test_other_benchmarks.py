"""The benchmarks that no other test starts: what they reckon with, on numbers known beforehand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aes.data.datamodule import ResumableLoader

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def benchmark_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def test_versus_llamafactory_divides_rates_round_by_round() -> None:
    from comparing.contest import Timing
    from versus_llamafactory import loss_difference, pairs_of, ratios

    peer = Timing(
        num_samples=48,
        loop_s=120.0,
        loop_cpu_s=200.0,
        steady_s=100.0,
        whole_s=150.0,
        whole_cpu_s=240.0,
        losses=(3.0, 2.0),
    )
    ours = replace(peer, loop_s=30.0, loop_cpu_s=40.0, whole_s=50.0, losses=(3.01, 1.98))
    timings = {"ours": [ours, peer], "llamafactory": [peer, peer]}
    assert peer.samples_per_s == 0.4
    assert pairs_of(timings) == [("ours", "llamafactory")]
    found = ratios(timings, "ours", "llamafactory")
    assert found["wall"] == pytest.approx([4, 1])
    assert found["cpu"] == pytest.approx([5, 1])
    assert found["whole_wall"] == pytest.approx([3, 1])
    assert found["whole_cpu"] == [1, 1]
    assert loss_difference(ours, peer) == pytest.approx(0.02)


def test_a_watched_command_tells_its_lines_or_its_end(tmp_path: Path) -> None:
    from comparing.watched import Watched, watch

    command = [sys.executable, "-S", "-c", "import sys; print('step 1/1 loss'); sys.exit(SYS)"]
    good = [part.replace("SYS", "0") for part in command]
    seen = watch(good, environment={}, folder=tmp_path)
    (moment,) = seen.moments(r"\bstep \d+/\d+ ")
    assert 0 < moment <= seen.wall_s
    with pytest.raises(ValueError, match="status 3"):
        watch([part.replace("SYS", "3") for part in command], environment={}, folder=tmp_path)
    busy = Watched(4.0, 6.0, (), ((0.0, 0.0), (2.0, 2.0), (4.0, 6.0)))
    assert [busy.cpu_at(t) for t in (0.0, 1.0, 3.0, 9.0)] == [0, 1, 4, 6]


def test_our_side_says_when_its_loader_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from comparing.our_train import LOADER_BEGINS, say_when_the_loader_begins

    # So that it is put back behind this test.
    monkeypatch.setattr(ResumableLoader, "__iter__", ResumableLoader.__iter__)
    say_when_the_loader_begins()
    loader = ResumableLoader([1, 2])
    batches = iter(loader)
    assert capsys.readouterr().out.splitlines() == [LOADER_BEGINS]
    assert [int(batch) for batch in batches] == [1, 2]


def test_preparation_is_told_a_sample() -> None:
    from comparing.watched import Watched
    from prepare import read_row, times_faster

    told = {
        "num_samples": 10,
        "before_s": 1.0,
        "before_cpu_s": 0.5,
        "num_collated": 4,
        "loader_s": 0.8,
        "loader_cpu_s": 0.2,
    }
    row = read_row(Watched(1.0, 1.0, ((0.1, "hello"), (0.9, f"PREPARED {json.dumps(told)}")), ()))
    assert row["both"] == pytest.approx(100 + 200)
    assert row["cpu_both"] == pytest.approx(50 + 50)
    slower = {name: 3 * value for name, value in row.items()}
    found = times_faster({"typed": [row, row], "llamafactory": [slower, row]})
    assert found["typed"]["loader"] == pytest.approx([2, 1, 3])
    assert times_faster({"typed": [row]}) == {}


def test_startup_counts_each_second_to_one_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    import startup

    clock = iter([3.0, 7.0, 8.0])
    monkeypatch.setenv(startup.STARTED, "1.0")
    monkeypatch.setattr("startup.time.time", lambda: next(clock))

    class Stages:
        read = staticmethod(len)

    timeline = startup.Timeline()
    timeline.mark("start Python")
    timeline.wrap(Stages, "read", "read and tokenise")
    assert Stages.read("abc") == 3
    wall = {stage: wall_s for stage, (wall_s, _) in timeline.stages.items()}
    assert wall == {"start Python": 2, "command": 4, "read and tokenise": 1}
    assert startup.total(timeline.stages) == 7


def test_scaling_marks_what_was_carried_on(capsys: pytest.CaptureFixture[str]) -> None:
    from preparing.many_essays import MOST_TOKENISED, carry_on, chain_texts
    from scaling import PAGES, print_tables

    texts = list(chain_texts(20, np.random.default_rng(0)))
    assert len(set(texts)) == 20
    assert all(600 <= len(text) <= 1000 for text in texts)
    assert all(rows * columns == num for num, (rows, columns) in PAGES.items())
    long = {"cpu_s": 2.0, "s": 3.0, "peak_gib": 1.0}
    carry_on(long, 10 * MOST_TOKENISED)
    stages = {"split": {"cpu_s": 1.0, "s": 1.0, "peak_gib": 1.0}, "tokenise": long}
    print_tables({"essays": [{"essays": 20_000, "stages": stages}]})
    told = capsys.readouterr().out
    assert "~20.00 s" in told
    assert "~1.00 s" not in told


def test_render_times_both_ways_on_pages_of_the_same_size() -> None:
    from render import NUM_CHARS, StraightforwardRenderer, measure, read_essays

    essay = read_essays()[0]
    assert len(essay[1]) == NUM_CHARS
    assert StraightforwardRenderer().draw(*essay).width == 768
    found = measure([essay], 1)
    assert all(ms > 0 for ms in found.values())
    assert {"ours_png", "reference_png"} < set(found)


def test_metrics_are_those_of_the_packages() -> None:
    pytest.importorskip("nltk")
    pytest.importorskip("rouge_chinese")
    from metrics import make_pairs, measure

    assert make_pairs(50, 2, 0) != make_pairs(50, 2, 1)
    found = measure(50, 2, 1)  # which asserts that scores are equal
    assert set(found) == {"reference", "ours", "ours_gold_kept", "words_only"}
