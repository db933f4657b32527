"""A run -> ``README.md`` of its export: what it was made of, how good it is, what it is not for.

Says what the run's own files say, and says so where they say nothing. Holds no text of an essay or
an answer, no names of essays and no paths of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aes.export.card_facts import CardFacts, table
from aes.export.card_metrics import Measured, find_evaluation, metric_tables
from aes.export.card_usage import loading, training
from aes.export.run_facts import read_counts


def write_card(facts: CardFacts, path: Path) -> None:
    """Write the card."""
    found = find_evaluation(facts.run)
    parts = [
        _front_matter(facts),
        f"# {facts.name}",
        _opening(facts),
        _data(facts),
        _evaluation(found),
        _use(facts),
        _limits(facts, found),
        loading(facts),
        training(facts),
        _license(facts),
    ]
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def _front_matter(facts: CardFacts) -> str:
    lines = [
        f"base_model: {facts.base_id}" if facts.base_id else "",
        f"library_name: {'transformers' if facts.is_merged else 'peft'}",
        f"pipeline_tag: {'image-text-to-text' if facts.sees else 'text-generation'}",
        "language: zh" if facts.grades else "",
        "tags:",
        "- lora" if facts.has_adapter else "",
        "- automated-essay-scoring" if facts.grades else "- sft",
        "# license: to be chosen by whoever publishes this; see the end",
    ]
    return "\n".join(["---", *(line for line in lines if line), "---"])


def _opening(facts: CardFacts) -> str:
    what = (
        f"{'Merged' if facts.has_adapter else 'Whole'} weights ({facts.dtype}) in the layout of "
        "the hub"
        if facts.is_merged
        else "A LoRA adapter in PEFT layout"
    )
    does = (
        f"It gives scores under the rubric {facts.values['rubric']['title']} "
        f"({', '.join(facts.values['rubric']['traits'])}) as JSON."
        if facts.grades
        else "It answers as its training data does."
    )
    warning = (
        "\n\n**The base has random weights: this model cannot read. It exists to try tools, and "
        "nothing that it says may be used.**"
        if facts.is_random
        else ""
    )
    return f"{what}, trained on {facts.base} with aes {version('aes')}. {does}{warning}"


def _data(facts: CardFacts) -> str:
    data, counts = facts.values["data"], read_counts(facts.run)
    together = (
        "no relatives across parts" if facts.grades else "equal questions and images on one side"
    )
    rows = [
        ("data set", facts.choices["data"]),
        *counts.rows(),
        ("held out", f"{_share(data, 'val')} for validation, {_share(data, 'test')} as test"),
        ("chosen by", f"seed {data.get('split_seed', 'unknown')}, {together}"),
        ("with a problem", f"data.on_problem={data.get('on_problem')}"),
        ("too long", f"data.on_overlong={data.get('on_overlong')} above {data['max_tokens']}"),
    ]
    note = "\n\nThe data set is the embedded sample, made up to try tools."
    return (
        "## Data\n\n" + table(("", ""), rows) + (note if facts.choices["data"] == "sample" else "")
    )


def _share(data: Mapping[str, Any], part: str) -> str:
    if part == "test" and data.get("fold") is not None:
        return f"fold {data['fold']} of {data['num_folds']}"
    return f"{data.get(f'{part}_fraction', 0):.0%}"


def _evaluation(found: Measured | None) -> str:
    if found is None:
        return (
            "## Evaluation\n\nNobody has evaluated this model: the run holds no "
            "evaluation/test/metrics.json. `python evaluate.py run=RUN_DIR baseline=true` makes it."
        )
    caution = (
        f"\n\n**These are of split={found.split}, which was trained on: they say nothing about "
        "new ones.**"
        if found.split in ("train", "all")
        else ""
    )
    stale = (
        "\n\n**These numbers are of other weights than the run holds now: evaluate again.**"
        if found.is_stale
        else ""
    )
    tables = "\n\n".join(
        f"{heading}\n\n{table(head, rows)}" for heading, head, rows in metric_tables(found)
    )
    return (
        f"## Evaluation\n\nsplit={found.split}: {found.described}. In brackets 95 % bootstrap "
        f"intervals over source essays.{caution}{stale}\n\n{tables}"
    )


def _use(facts: CardFacts) -> str:
    if facts.is_random:
        text = "None, but trying this software."
    elif facts.grades:
        text = (
            "A second opinion beside a human marker on essays like those of the data above: same "
            "age, kind of task, language and way of writing on the page. Totals and deductions are "
            "computed in code from the scores, never by the model."
        )
    else:
        text = "Answers to questions like those of the data above, read by somebody who can judge."
    return f"## Intended use\n\n{text}"


def _limits(facts: CardFacts, found: Measured | None) -> str:
    lines = [
        "Not for decisions about people that nobody reviews.",
        "What it learned of the training data's graders and authors, their leanings included, it "
        "repeats."
        if facts.grades
        else "It repeats what its training data says, right or wrong.",
        "Scores of essays unlike the training data (other tasks, grades, scripts, scans) are not "
        "covered by the numbers above."
        if facts.grades
        else "",
        "A model that reads pages may silently read a miswritten character as the right one."
        if facts.sees
        else "",
        "Text in the input that orders an answer may be obeyed; `evaluate.py suite=robustness` "
        "measures how often."
        if facts.grades
        else "Text in the input that orders an answer may be obeyed.",
        "" if found is not None else "Nobody has measured how good it is.",
        f"Prompts with their answers were at most {facts.values['data']['max_tokens']} tokens.",
        facts.obstacle and f"{facts.obstacle}.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines if line)


def _license(facts: CardFacts) -> str:
    return (
        "## License\n\nTo be filled in by whoever publishes this:\n\n"
        "- license of these weights:\n"
        f"- license of the base, {facts.base}, whose terms go on to hold:\n"
        f"- license of the data, {facts.choices['data']}, and whether it allows publishing what "
        "was trained on it:"
    )
