"""``python -m aes.cli.system_prompt``: the base model writes the system prompt of a classification.

Wiring only. It is shown training samples with their labels, and never one that is held out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as schema
from rich.console import Console
from rich.text import Text

from aes.cli.compose import compose, resolve, without_hydra
from aes.cli.samples import read_texts
from aes.cli.settings import Settings, bind, bind_settings, bind_target
from aes.cli.source import Source
from aes.cli.validate import check_combination
from aes.corpus.instructions import InstructionData
from aes.files import write_atomically
from aes.inference import VllmSpec
from aes.prompt.guidance import GuidanceSpec, ask_for_guidance, choose_samples
from aes.records import Example

if TYPE_CHECKING:
    from aes.data.processor import Processor
    from aes.inference.engine import Engine
    from aes.page import PageRenderer

_THOUGHTS = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)


@schema(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SystemPromptValues:
    """The keys of ``system_prompt.yaml`` that belong to no group.

    Attributes:
        out: Text file to write.
        num_samples: Training samples that the model is shown.
    """

    out: Path
    num_samples: Annotated[int, Field(ge=1, le=1000)]


@dataclass(frozen=True, kw_only=True)
class _Request:
    settings: Settings
    data: InstructionData
    values: SystemPromptValues
    words: GuidanceSpec


def run(source: Source) -> int:
    """Show, ask, and write down.

    Returns:
        Exit status 0.

    Raises:
        ValueError: For every mistake of the user's.
    """
    request, console = _bind(source), Console()
    settings = request.settings
    streamed, renderer, processor = read_texts(settings, request.data, console, weights=True)
    train = streamed.split(seed=settings.seed).train.examples()
    samples = choose_samples(train, num=request.values.num_samples, seed=settings.seed)
    if any(sample.pages for sample in samples):
        raise ValueError("the samples have images, of which a system prompt cannot be written here")
    engine = _load_base(settings, processor, renderer)
    text = _answer(engine, ask_for_guidance(samples, request.data.labels, request.words), console)
    out = request.values.out.expanduser()
    # First what made it: a prompt of which nobody knows that would be worse.
    facts = json.dumps(_facts(request, samples), indent=1, ensure_ascii=False)
    _write(out.with_name(f"{out.name}.json"), facts)
    _write(out, text)
    console.print(Text(f"system prompt of {len(text)} characters: {out}"), soft_wrap=True)
    console.print(Text(f"train with it: data.system_file={out}"), soft_wrap=True)
    return 0


def _bind(source: Source) -> _Request:
    config = compose(source)
    composed = resolve(without_hydra(config), config.hydra, source)
    own = {name: composed.values[name] for name in SystemPromptValues.__dataclass_fields__}
    values = bind(SystemPromptValues, own, path="")
    words = bind_target(composed.values["guidance"], path="guidance")
    if not isinstance(words, GuidanceSpec):
        raise ValueError(f"guidance._target_: {type(words).__name__} does not belong there")
    settings = bind_settings(composed, other_keys=(*own, "guidance"))
    check_combination(settings)
    data = settings.data
    if not isinstance(data, InstructionData) or not data.labels:
        raise ValueError(
            "a system prompt is written for a classification; give the data with its labels, as in "
            "data=alpaca data.path=FILE data.labels=[A,B]"
        )
    out = values.out.expanduser()
    if out.exists() or values.out == Path():
        raise ValueError(f"out={out} is there already; remove it, or choose another file")
    return _Request(settings=settings, data=data, values=values, words=words)


def _load_base(settings: Settings, processor: Processor, renderer: PageRenderer) -> Engine:
    """The model as it was before any training."""
    import torch

    from aes.inference.engine import Engine
    from aes.model.kernels import apply_kernels, resolve_kernels
    from aes.model.loading import load_base, model_folder

    hardware, spec = settings.hardware, settings.model
    assert not isinstance(settings.engine, VllmSpec), "refused with what cannot be combined"
    model: Any = load_base(
        model_folder(spec, settings.cache),
        dtype=torch.bfloat16 if hardware.precision == "bf16" else torch.float32,
        device=hardware.accelerator,
        quantization=spec.quantization,
    )
    model.requires_grad_(False).eval()
    apply_kernels(model, resolve_kernels(settings.kernels, spec, None))
    return Engine(
        model=model,
        processor=processor,
        renderer=renderer,
        decoding=settings.decoding,
        precision=hardware.precision,
        spec=settings.engine,
    )


def _answer(engine: Engine, question: Example, console: Console) -> str:
    """What the model writes, shown as it comes; thoughts that it marks as such are left out."""
    pieces = []
    for piece in engine.stream(question):
        pieces.append(piece)
        console.print(Text(piece), end="", soft_wrap=True)
    console.print()
    text = _THOUGHTS.sub("", "".join(pieces)).strip()
    if not text:
        raise ValueError(
            "the base model wrote no system prompt; try another seed, a larger model, or more "
            "room by decoding.max_answer_tokens"
        )
    return text


def _facts(request: _Request, samples: Sequence[Example]) -> dict[str, Any]:
    """What made the prompt."""
    settings = request.settings
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "model": settings.model.path or settings.choices["model"],
        "precision": settings.hardware.precision,
        "seed": settings.seed,
        "split_seed": request.data.split_seed,
        "val_fraction": request.data.val_fraction,
        "test_fraction": request.data.test_fraction,
        "data": [str(file) for file in request.data.files()],
        "labels": list(request.data.labels),
        "samples": [sample.id for sample in samples],
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (text + "\n").encode("utf-8", "replace"))


if __name__ == "__main__":
    from aes.cli.entry import main_on_run

    main_on_run("system_prompt", run)
