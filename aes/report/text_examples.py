"""Single samples -> question, wanted answer and the models' answers side by side, as HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aes.metrics.answers import AnswersEvaluation, AnswersResult
from aes.report.evaluation_html import Html, bilingual, element, join
from aes.report.evaluation_tables import titled
from aes.report.evaluation_words import say
from aes.report.evaluation_worst import encode_page
from aes.report.text_tables import model_heading

if TYPE_CHECKING:
    from PIL.Image import Image

_NUM_WORST, _NUM_BEST, _MAX_IMAGES = 6, 3, 3
_MAX_CHARS = 2000

_SAMPLE_BYTES = 120_000
"""Most bytes of all images of one sample."""


@dataclass(frozen=True)
class ShownSample:
    """What a sample asks: its turns as text, and its images."""

    question: str
    images: Sequence[Image] = ()


ShowSample = Callable[[str], ShownSample]
"""A sample's id -> what it asks."""


def examples_panel(evaluation: AnswersEvaluation, show_sample: ShowSample) -> Html:
    """A few of the worst and of the best answers of what was trained."""
    result = evaluation.trained
    worst, best = choose_examples(result)
    lead = "lead_labels" if result.labels is not None else "lead_text"
    shown = [
        *(_example(evaluation, place, "worst", show_sample) for place in worst),
        *(_example(evaluation, place, "best", show_sample) for place in best),
    ]
    heading, english = say("answers.examples.heading"), say("answers.examples.english")
    return join(
        bilingual("h2", heading, english, id="examples"),
        element("p", say(f"answers.examples.{lead}", worst=len(worst), best=len(best))),
        *shown,
    )


def choose_examples(result: AnswersResult) -> tuple[list[int], list[int]]:
    """Places of the worst answers, the worst first, and of the best, the best first.

    Of labels those are the surest mistakes and the surest hits; an answer without probabilities
    counts as sure. Of free answers the order is that of ROUGE-L, then of BLEU-4.
    """
    places = range(len(result.answered))
    if result.labels is None:
        order = sorted(places, key=lambda i: _likeness(result, i))
        worst = order[:_NUM_WORST]
        return worst, [i for i in reversed(order) if i not in worst][:_NUM_BEST]
    sure = sorted(places, key=lambda i: -_sureness(result, i))
    is_right = [pred == one.gold for pred, one in zip(result.preds, result.answered, strict=True)]
    wrong = [i for i in sure if not is_right[i]]
    return wrong[:_NUM_WORST], [i for i in sure if is_right[i]][:_NUM_BEST]


def _likeness(result: AnswersResult, place: int) -> tuple[float, float]:
    scores = result.of_samples[place]
    return scores["rouge-l"], scores["bleu-4"]


def _sureness(result: AnswersResult, place: int) -> float:
    return max(result.answered[place].probabilities.values(), default=1.0)


def _example(evaluation: AnswersEvaluation, place: int, kind: str, show_sample: ShowSample) -> Html:
    one = evaluation.trained.answered[place]
    shown = show_sample(one.id)
    answers = [
        element("div", titled("h4", "answers.examples.gold"), _text(one.gold)),
        *(_answer(result, name, place) for name, result in evaluation.models.items()),
    ]
    question = element(
        "div",
        titled("h4", "answers.examples.question"),
        _images(one.id, shown.images),
        _text(shown.question),
    )
    return element(
        "article",
        titled("h3", f"answers.examples.{kind}"),
        element("p", one.id, class_="note"),
        element("div", question, element("div", *answers, class_="answers")),
        class_="essay",
    )


def _answer(result: AnswersResult, name: str, place: int) -> Html:
    one = result.answered[place]
    if result.labels is not None:
        share = one.probabilities.get(one.text)
        note = "" if share is None else say("answers.examples.probability", share=f"{share:.1%}")
    else:
        scores = result.of_samples[place]
        note = f"ROUGE-L {scores['rouge-l']:.1f} · BLEU-4 {scores['bleu-4']:.1f}"
    return element(
        "div",
        element("h4", model_heading(name)),
        _text(one.text),
        element("p", note, class_="note") if note else join(),
    )


def _images(id_: str, images: Sequence[Image]) -> Html:
    shown = images[:_MAX_IMAGES]
    found = [
        element(
            "img",
            alt=say("answers.examples.image", id=id_, number=number),
            src=encode_page(image, _SAMPLE_BYTES // len(shown)),
        )
        for number, image in enumerate(shown, start=1)
    ]
    if num_left := len(images) - len(shown):
        found.append(element("p", say("answers.examples.more_images", num=num_left)))
    return element("div", *found, class_="pages") if found else join()


def _text(text: str) -> Html:
    short = text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + " …"
    return element("pre", short or say("answers.examples.nothing"))
