"""Lengths and expected memory -> what would stop a run, each in a sentence with its cure.

Does not look for what is wrong in the data itself; that is the corpus check's part.
"""

from __future__ import annotations

from collections.abc import Sequence

from aes.plan.lengths import MeasuredData
from aes.plan.memory import SAFETY_MARGIN, MemoryPlan
from aes.plan.remedies import suggest_remedies
from aes.plan.workload import Workload


def find_data_blockers(
    data: MeasuredData, *, num_ranks: int, max_batch_tokens: int | None
) -> list[str]:
    """Too few samples for a step, samples over the limit in any split or over a micro-batch's."""
    blockers = []
    num = data.train.num_examples
    if num < num_ranks:
        blockers.append(
            f"{num} training samples do not make a step on {num_ranks} device(s); {_cure(data)}"
        )
    longest = max(data.train.num_tokens, default=0)
    if max_batch_tokens is not None and longest > max_batch_tokens:
        name = data.train.ids[data.train.num_tokens.index(longest)]
        blockers.append(
            f"sample {name} has {longest} tokens, more than batching.max_tokens={max_batch_tokens} "
            f"lets into a micro-batch; set batching.max_tokens={longest} or more"
        )
    return blockers + _overlong(data)


def _cure(data: MeasuredData) -> str:
    if not data.overlong:
        return "check data.root and what was dropped"
    id_, shortest = min(data.overlong.items(), key=lambda item: item[1])
    return (
        f"{len(data.overlong)} were dropped as longer than data.max_tokens={data.max_tokens}, the "
        f"shortest of them ({id_}) has {shortest} tokens at full size; raise data.max_tokens"
    )


def _overlong(data: MeasuredData) -> list[str]:
    limit = data.max_tokens
    rows = [
        (id_, tokens, tokens - supervised)
        for split in (data.train, data.validation, data.test)
        for id_, tokens, supervised in zip(
            split.ids, split.num_tokens, split.num_supervised, strict=True
        )
    ]
    blockers = []
    if prompts := [id_ for id_, _, prompt in rows if prompt >= limit]:
        blockers.append(
            f"{_name(prompts)}: the prompt alone reaches data.max_tokens={limit}; raise it or draw "
            "smaller pages"
        )
    if over := [(id_, tokens) for id_, tokens, prompt in rows if tokens > limit > prompt]:
        needed = max(tokens for _, tokens in over)
        blockers.append(
            f"{_name([id_ for id_, _ in over])}: longer than data.max_tokens={limit}; set it to "
            f"{needed}, or set data.on_overlong to drop or shrink"
        )
    return blockers


def _name(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:3]) + (" ..." if len(ids) > 3 else "")
    return f"{len(ids)} sample{'s' if len(ids) > 1 else ''} ({shown})"


def find_memory_blockers(
    load: Workload, memory: MemoryPlan, *, global_batch_size: int
) -> list[str]:
    """The run needs more than a device has; with every change that was found to make it fit."""
    if memory.available is None or memory.fits:
        return []
    remedies = suggest_remedies(
        load, global_batch_size=global_batch_size, available_gib=memory.available
    )
    usable = memory.available * (1 - SAFETY_MARGIN)
    need = f"needs {memory.total:.1f} GiB on a device with {usable:.1f} usable"
    if not remedies:
        return [f"{need}; nothing tried would fit, choose a device with more memory"]
    return [f"{need}; would fit: {'; or '.join(remedies)}"]
