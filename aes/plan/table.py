"""A Plan -> a table on the terminal, one screen, readable at 80 columns and plain when piped."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aes.plan.communication import LINK_SHARE, link_gb_s
from aes.plan.comparison import Costs
from aes.plan.memory import SAFETY_MARGIN
from aes.plan.parameters import sum_parameters
from aes.plan.plan import Plan

_LEAST_SHARE = 0.01
"""Parts with less than this share of the parameters are put together as the rest."""


def render_plan(plan: Plan, console: Console) -> None:
    """Print the plan; blockers stand last, where the eye rests."""
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for section, lines in _sections(plan):
        for number, line in enumerate(lines):
            # Text, since a plain str would be read as markup and lose what stands in brackets.
            table.add_row("" if number else section, Text(line) if isinstance(line, str) else line)
    for style, section, notes in (
        ("yellow", "Advice", plan.advice),
        ("bold red", "Blockers", plan.blockers),
    ):
        for number, note in enumerate(notes):
            label = "" if number else section
            table.add_row(Text(label, style=style), Text(f"- {note}", style=style))
    console.print(table)


def _sections(plan: Plan) -> Iterator[tuple[str, list[str | Text]]]:
    yield "Model", [_model(plan), *_parameters(plan)]
    yield "Data", [_essays(plan), _splits(plan)]
    yield "Pages", [_pages(plan), *_features(plan)]
    yield "Tokens", list(_tokens(plan))
    yield "Memory", [_memory_verdict(plan), *_memory_parts(plan), *_recomputed(plan)]
    yield "Steps", [_steps(plan)]
    yield "Saves", [plan.steps.note]
    yield "Links", list(_links(plan))
    yield "Time", list(_time(plan))
    yield "Strategies", list(_strategies(plan))


def _model(plan: Plan) -> str:
    hardware = plan.hardware
    kind = {"cpu": "CPU", "cuda": "GPU"}[hardware.accelerator]
    nodes = f" of {hardware.num_nodes} nodes" if hardware.num_nodes > 1 else ""
    return (
        f"{plan.model} in {hardware.precision} on {hardware.num_ranks} x {kind}{nodes}, "
        f"strategy {plan.strategy}"
    )


def _parameters(plan: Plan) -> Iterator[str]:
    total, trainable = sum_parameters(plan.parameters)
    sizes = {name: count.total for name, count in plan.parameters.items()}
    shown = {name: size for name, size in sizes.items() if size >= _LEAST_SHARE * total}
    parts = [f"{n} {_size(shown[n])}" for n in sorted(shown, key=lambda n: -shown[n])]
    if rest := total - sum(shown.values()):
        parts.append(f"rest {_size(rest)}")
    every = ", all trained" if trainable == total else ""
    yield f"{_size(total)} parameters{every}: {', '.join(parts) or 'none'}"
    if not every:
        trained = [f"{n} {c.trainable:,}" for n, c in plan.parameters.items() if c.trainable]
        share = f"{trainable / max(1, total):.2%}"
        yield f"trained {trainable:,} ({share}): {'; '.join(trained) or 'none'}"


def _size(number: int) -> str:
    if number < 1e5:
        return f"{number:,}"
    return f"{number / 1e9:.3f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _essays(plan: Plan) -> str:
    parts = [f"{number:,} {name}" for name, number in plan.essays.items() if number]
    parts += [f"{number:,} dropped ({reason})" for reason, number in plan.dropped.items() if number]
    return f"{plan.unit}: " + (", ".join(parts) or "none")


def _splits(plan: Plan) -> str:
    splits = {"train": plan.train, "validation": plan.validation, "test": plan.test}
    return "samples: " + ", ".join(f"{s.num_examples:,} {name}" for name, s in splits.items())


def _pages(plan: Plan) -> str:
    train = plan.train
    if not train.num_pages:
        return "none: text alone"
    text = f"{train.num_pages:,} to train on, {train.mean_page_tokens:,.0f} tokens each"
    if train.max_page_tokens > train.mean_page_tokens:
        text += f" (largest {train.max_page_tokens:,.0f})"
    if plan.glyph_px:
        low, high = plan.glyph_px
        text += f", glyphs {low:g} px" if low == high else f", glyphs {low:g} to {high:g} px"
    return text


def _features(plan: Plan) -> Iterator[str]:
    """What is kept of what the vision tower makes of pages."""
    kept = plan.page_features
    if kept is None or kept.place == "none":
        return
    where = "in host memory" if kept.place == "memory" else "on disk"
    num_ranks = plan.hardware.num_ranks
    each = ", on each rank" if kept.place == "memory" and num_ranks > 1 else ""
    gib, most = kept.num_bytes / 2**30, kept.max_bytes / 2**30
    if gib <= most:
        yield f"the vision tower's features are kept {where}: {gib:.2f} GiB{each}"
    else:
        yield (
            f"of {gib:.1f} GiB of the vision tower's features {most:.1f} are kept {where}{each}; "
            "raise vision_cache.max_gib to keep all"
        )
    if each:
        found = kept.found_share(1, num_ranks=num_ranks)
        yield (
            f"samples are dealt anew in each epoch: in the second a rank finds {found:.0%} of its "
            "pages; vision_cache=disk shares them among ranks"
        )


def _tokens(plan: Plan) -> Iterator[str]:
    train = plan.train
    yield (
        f"mean {train.mean_tokens:,.0f}, 95 % up to {train.p95_tokens:,}, longest "
        f"{train.max_tokens:,} ({train.longest_id or 'none'}); limit {plan.max_tokens:,}"
    )
    yield (
        f"supervised: mean {train.mean_supervised:,.0f}, most {train.max_supervised:,}; "
        f"{plan.batching.layout}, padding {train.padding_share:.0%}"
    )


def _memory_parts(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    parts = {
        "weights": memory.weights,
        "gathered": memory.gathered,
        "gradients": memory.gradients,
        "optimiser": memory.optimiser,
        "buffers": memory.buffers,
        "activations": memory.activations,
        "logits": memory.logits,
        "page features": memory.features,
        "update": memory.step,
        "overhead": memory.overhead,
    }
    shown = [f"{name} {gib:.1f}" for name, gib in parts.items() if gib >= 0.05]
    rest = sum(gib for gib in parts.values() if gib < 0.05)
    yield " + ".join([*shown, f"rest {rest:.2f}"]) + " GiB"
    if memory.host:
        yield f"in the host memory of each node besides: {memory.host:.1f} GiB"


def _memory_verdict(plan: Plan) -> Text:
    memory = plan.memory
    how = f" at micro-batch {plan.hardware.micro_batch_size}"
    if plan.checkpointing.policy != "none":
        how += f", {plan.checkpointing.words}"
    if memory.available is None:
        return Text(f"{memory.total:.1f} GiB a device{how}; what it has is not known")
    verdict, style = ("fits", "bold green") if memory.fits else ("DOES NOT FIT", "bold red")
    return Text.assemble(
        (verdict, style),
        f": {memory.total:.1f} of {memory.available:.1f} GiB a device, {SAFETY_MARGIN:.0%} to be "
        f"left free,{how}",
    )


def _recomputed(plan: Plan) -> Iterator[str]:
    """What was chosen where it was left open, and why."""
    if plan.checkpointing_reason:
        yield f"{plan.checkpointing.words} ({plan.checkpointing_reason})"


def _steps(plan: Plan) -> str:
    steps, hardware = plan.steps, plan.hardware
    text = f"{steps.total:,} ({steps.per_epoch:,} an epoch) of {plan.global_batch_size} samples = "
    factors = [hardware.micro_batch_size, steps.accumulation, hardware.num_ranks]
    text += " x ".join(str(f) for f in factors)
    if steps.last_batch and steps.last_batch != plan.global_batch_size:
        text += f"; an epoch's last {steps.last_batch}"
    if steps.warmup:
        text += f"; warm-up {steps.warmup}"
    return text


def _links(plan: Plan) -> Iterator[str]:
    """What comes from other ranks and from host memory; nothing where there is neither."""
    sent = plan.communication
    if sent.step:
        yield (
            f"{_gigabytes(sent.step)} a full step to each of {plan.hardware.num_ranks} devices, "
            f"{_duration(sent.step_s)} at {LINK_SHARE:.0%} of {link_gb_s(plan.hardware):g} GB/s"
        )
    if sent.weights:
        yield (
            f"weights: {_gigabytes(sent.gathered)} x {sent.passes} passes x "
            f"{plan.steps.accumulation} micro-batches; gradients {_gigabytes(sent.gradients)}"
        )
    if sent.host:
        yield f"{_gigabytes(sent.host)} a full step between a device and host memory"
    if sent.validation:
        yield f"a validation: {_gigabytes(sent.validation)}, {_duration(sent.validation_s)}"


def _gigabytes(number: float) -> str:
    return f"{number:,.1f} GB" if number >= 1 else f"{number * 1000:,.1f} MB"


def _strategies(plan: Plan) -> Iterator[str | Text]:
    """The choices side by side, where there is a choice to make."""
    if len(plan.strategies) < 2 or (plan.hardware.num_ranks == 1 and plan.memory.fits):
        return
    yield Text(f"{'':15}{'GiB a device':>12} {'':7}{'a step':>10}{'s':>7}  training")
    for costs in plan.strategies:
        yield Text(_strategy(costs), style="bold" if costs.strategy == plan.strategy else "")


def _strategy(costs: Costs) -> str:
    memory, sent = costs.memory, costs.communication
    verdict = {None: "", True: "fits", False: "no"}[memory.fits]
    return (
        f"{costs.strategy:15}{memory.total:12.1f} {verdict:7}"
        f"{_gigabytes(sent.step + sent.host):>10}{sent.step_s:7.2f}  "
        f"{_duration(costs.time.expected_s)}"
    )


def _time(plan: Plan) -> Iterator[str]:
    time = plan.time
    cost = f", price {time.cost:,.2f}" if time.cost is not None else ""
    parts = f"training {_duration(time.expected_s)}"
    if plan.communication.passes:
        parts += f" ({_duration(time.communication_s)} of it gathering)"
    if plan.validation.num_examples:
        number = len(plan.steps.validations)
        parts += f", {number} validation{'s' * (number != 1)} {_duration(time.validation_s)}"
    yield f"about {_duration(time.total_s)}{cost}: {parts}"
    crude = "; crude on a CPU" if plan.hardware.accelerator == "cpu" else ""
    yield (
        f"floor of training {_duration(time.floor_s)}; computing is assumed to reach "
        f"{time.utilisation:.0%} of its speed{crude}"
    )


def _duration(seconds: float) -> str:
    if 0 < seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
