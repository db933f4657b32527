"""The parts of a model card that hold commands: how to load it, and how it was made."""

from __future__ import annotations

from aes.export.card_facts import CardFacts, fenced, table
from aes.export.run_facts import read_versions


def loading(facts: CardFacts) -> str:
    """How to load, serve and check it."""
    kind = "AutoModelForImageTextToText" if facts.sees else "AutoModelForCausalLM"
    lines = [f"from transformers import {kind}", ""]
    if facts.is_merged:
        lines.append(f'model = {kind}.from_pretrained("{facts.name}")')
    else:
        lines.insert(0, "from peft import PeftModel")
        lines += [
            f'base = {kind}.from_pretrained("{facts.base_id or "BASE_FOLDER"}")',
            f'model = PeftModel.from_pretrained(base, "{facts.name}")',
        ]
    shell = (facts.serve, f"python -m aes.export --check {facts.name}", "sha256sum -c SHA256SUMS")
    return "\n\n".join(
        [
            "## Loading",
            fenced("python", lines),
            fenced("text", shell),
            *([f"{facts.obstacle}."] if facts.obstacle else []),
            *([_pages(facts)] if facts.sees and facts.grades else []),
            *([] if facts.grades else [_asking(facts)]),
        ]
    )


def _pages(facts: CardFacts) -> str:
    page = facts.values["page"]
    return (
        f"Typed essays were drawn as pages {page.get('width_px')} px wide with type of "
        f"{page.get('glyph_px')} px; `grading.json` has all that whoever grades must know."
    )


def _asking(facts: CardFacts) -> str:
    """How a model that learned from instruction data was asked."""
    data = facts.values["data"]
    labels = ", ".join(f"`{label}`" for label in data.get("labels") or ())
    has_system = data.get("system") or data.get("system_file")
    said = [
        "Ask as in training: `grading.json` holds the system prompt (`system`), to be sent with "
        "every question that has none of its own."
        if has_system
        else "It was trained without a system prompt, but for samples that had their own.",
        "`grading.json` also holds the `question` that was asked about each image."
        if data.get("question")
        else "",
        f"Each answer is one of these labels: {labels}." if labels else "",
        "Where the chat template can think, it was trained with thinking off; the command above "
        "turns it off, and other servers need `chat_template_kwargs` with `enable_thinking: false` "
        "in each request."
        if not facts.sees
        else "",
    ]
    return " ".join(filter(None, said))


def training(facts: CardFacts) -> str:
    """How it was made, as far as names and numbers say it."""
    values = facts.values
    options = " ".join(f"{key}={facts.choices[key]}" for key in _OPTIONS if key in facts.choices)
    settings = {f"{group}.{key}": values[group].get(key) for group, key in _SETTINGS}
    rows: list[tuple[str, object]] = [
        ("options", options),
        *((key, value) for key, value in settings.items() if value is not None),
        ("global_batch_size", values["global_batch_size"]),
        ("seed", values["seed"]),
        ("began with", "another adapter" if values["adapter"].get("init_from") else "the base"),
        ("libraries", ", ".join(f"{k} {v}" for k, v in read_versions(facts.run).items())),
    ]
    commands = (
        f"python train.py {options}   # and the values above",
        "python evaluate.py run=RUN_DIR baseline=true",
        f"python -m aes.export RUN_DIR --out {facts.name}{' --merged' if facts.is_merged else ''}",
    )
    shown = fenced("text", commands)
    return f"## Training\n\n{table(('setting', 'value'), rows)}\n\n{shown}"


_OPTIONS = (
    *("model", "data", "rubric", "page", "prompt", "loss", "adapter", "optim", "trainer"),
    *("decoding", "hardware", "strategy"),
)
_SETTINGS = (
    *(("adapter", key) for key in ("rank", "alpha", "dropout", "targets", "modules_to_save")),
    *(("optim", key) for key in ("lr", "schedule", "warmup_ratio", "weight_decay")),
    *(("trainer", key) for key in ("max_epochs", "max_steps")),
    ("hardware", "precision"),
    ("model", "quantization"),
)
