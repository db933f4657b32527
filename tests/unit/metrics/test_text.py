"""Text scores against rouge-chinese and nltk themselves, by hand, and over ranks."""

import math
import tempfile
from collections.abc import Callable

import jieba
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge

from aes.corpus import load_sample
from aes.metrics import text as text_module
from aes.metrics.text import NAMES, text_scores
from aes.metrics.text_metric import TextMetrics

ESSAYS = [essay.text for essay in load_sample()[:4]]
JSON = '{"total_score": 48, "scores": {"content": 16, "format": 9.5}, "feedback": "语言流畅。"}'
Reference = Callable[[str, str], dict[str, float]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The scores as LLaMA-Factory puts them together, jieba with a cache file of its own."""
    jieba.setLogLevel("WARNING")
    tokenizer = jieba.Tokenizer()
    tokenizer.tmp_dir = tmp_path_factory.mktemp("jieba")

    def score(pred: str, gold: str) -> dict[str, float]:
        hyp, ref = (" ".join(tokenizer.cut(text)) for text in (pred, gold))
        rouge = {f"rouge-{kind}": 0.0 for kind in "12l"}
        if hyp.split() and ref.split():
            found = Rouge().get_scores(hyp, ref)[0]
            rouge = {name: round(found[name]["f"] * 100, 4) for name in rouge}
        smoothing = SmoothingFunction().method3
        bleu = sentence_bleu([list(gold)], list(pred), smoothing_function=smoothing)
        return {"bleu-4": round(bleu * 100, 4)} | rouge

    return score


PIECES = [
    *"春天来了我们去公园看花的是。！？；：，、“”‘’《》（）…—?.!\"',;-+#&_% ",
    *"\n\r\t\x00\x1c\u3000\u200baZ019０Ａ①😀👍🏽é\u0301\u2028\ud800",
    "。”", "？\n", "。\n\n", "\r\n", "……", "......", "......." * 2, ".....。", "a......b",
    "......”", "中华人民共和国", "研究生命起源", "哈哈哈哈哈哈", "3.14%", "C++", "score: 48", "  ",
    "\n \n", JSON, ESSAYS[0][:40],
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=24).map("".join),
    st.lists(st.sampled_from("春花。？ \n.a"), max_size=24).map("".join),
    st.integers(0, len(ESSAYS) - 1).flatmap(
        lambda i: st.integers(0, 300).map(lambda start: ESSAYS[i][start : start + 60])
    ),
    st.text(max_size=20),
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    """Unlike texts, equal texts, or a text and an edited copy."""
    gold = draw(TEXTS)
    change = draw(st.sampled_from(["unlike", "equal", "edited", "edited"]))
    if change == "equal":
        return gold, gold
    pred = draw(TEXTS)
    if change == "edited":
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(gold))] * 2)))
        pred = gold[:start] + pred[:6] + gold[end:]
    return pred, gold


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pairs())
@example(("", ""))
@example(("", "春"))
@example(("春", ""))
@example((" \n ", " \n "))
@example(("春", "春"))
@example(("春花", "花春"))
@example(("。", "？"))
@example(("好。\n\n好。\n", "好。\n好。"))
@example(("好?\n坏", "好！\n坏"))
@example(("......\n坏", ".......\n坏"))
@example(("好\x00坏", "好。\n坏"))
@example(("." * 13 + "a", "." * 6))
@example(("......”" * 2, "......" * 3))
@example((JSON, JSON.replace("48", "32")))
def test_equal_to_the_reference(reference: Reference, pair: tuple[str, str]) -> None:
    assert text_scores(*pair) == reference(*pair)


@pytest.mark.parametrize("num_chars", [5, 50, 200, 400])
def test_essays_equal_the_reference(reference: Reference, num_chars: int) -> None:
    pred, gold = (essay[:num_chars] for essay in ESSAYS[:2])
    edited = gold[:20] + gold[21 : num_chars // 2] + pred[-5:] + gold[num_chars // 2 :]
    for hypothesis in (pred, edited, gold):
        assert text_scores(hypothesis, gold) == reference(hypothesis, gold)


def test_words_by_hand() -> None:
    # 天气 | 很 | 好 against 天气 | 真 | 好: two of three words, no pair of words, two in order.
    scores = text_scores("天气很好", "天气真好")
    assert scores["rouge-1"] == scores["rouge-l"] == 66.6667
    assert scores["rouge-2"] == 0.0
    # Characters 3 of 4, pairs 1 of 3, then nothing: 1/2 of a match in 2, 1/4 in 1.
    assert scores["bleu-4"] == round(100 * (3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25, 4)


def test_shortness_costs_bleu_by_hand() -> None:
    # One character of four: orders 2 to 4 have no place and count 1/2, 1/4 and 1/8.
    expected = 100 * math.exp(1 - 4) * (1 * 1 / 2 * 1 / 4 * 1 / 8) ** 0.25
    assert text_scores("春", "春夏秋冬")["bleu-4"] == round(expected, 4)


def test_equal_texts_score_100_and_repeated_words_count_once() -> None:
    assert text_scores(ESSAYS[0], ESSAYS[0]) == dict.fromkeys(NAMES, 100.0)
    scores = text_scores("花 花 花 花", "花")
    assert scores["rouge-1"] == 100.0
    assert scores["rouge-l"] == 40.0  # 1 of 4 and 1 of 1


def test_what_keeps_equal_texts_below_1_decides_a_tie() -> None:
    # 3 words of 128 are shared: 2.34375, and a little less with the 1e-8 in the denominator.
    words = [f"w{i}" for i in range(253)]
    scores = text_scores(" ".join(words[:128]), " ".join(words[125:]))
    assert scores["rouge-1"] == scores["rouge-l"] == 2.3437


def test_a_blank_line_counts_as_a_word() -> None:
    # 好 | 。 | "" | 坏 against 好 | 。 | 坏
    assert text_scores("好。\n坏", "好。坏")["rouge-1"] == 85.7143


def test_nothing_is_written_and_nothing_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> str:
        raise FileNotFoundError("no usable temporary folder")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "gettempdir", refuse)
        tokenizer = text_module._tokenizer.__wrapped__()
    assert list(tokenizer.cut("天气很好")) == ["天气", "很", "好"]
    assert capfd.readouterr() == ("", "")


PAIRS = [("天气很好", "天气不好"), ("春", "春夏秋冬"), ("", "花"), (ESSAYS[0][:80], ESSAYS[0][:90])]


def measured(*ranks: list[tuple[str, str]]) -> dict[str, float]:
    metrics = []
    for rank in ranks:
        metric = TextMetrics()
        for pred, gold in rank:
            metric.update([pred], [gold])
        metrics.append(metric)
    for other in metrics[1:]:
        metrics[0].merge_state(other)
    return {name: value.item() for name, value in metrics[0].compute().items()}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_however_pairs_lie_on_ranks_the_means_are_the_same() -> None:
    whole = measured(PAIRS)
    scores = [text_scores(*pair) for pair in PAIRS]
    for name in NAMES:  # the means are of rounded scores and not rounded again
        mean = sum(score[name] for score in scores) / len(PAIRS)
        assert whole[f"predict_{name}"] == pytest.approx(mean, rel=1e-14)
    assert list(whole) == [f"predict_{name}" for name in NAMES]
    assert measured(PAIRS[:1], PAIRS[1:]) == measured(PAIRS[2:], PAIRS[:2]) == whole
    assert measured([], PAIRS) == whole


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_metric_forgets_refuses_unlike_lengths_and_is_nan_without_pairs() -> None:
    metric = TextMetrics()
    metric.update(["春"], ["花"])
    metric.reset()
    assert all(torch.isnan(value) for value in metric.compute().values())
    with pytest.raises(ValueError, match="zip"):
        metric.update(["春"], [])
