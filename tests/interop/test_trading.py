"""With LLaMA-Factory itself: it reads our data, answers with our adapter, and we with its."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from comparing.peer import Peer

from aes.cli.export_data import compose_settings
from aes.cli.export_data import run as export_data
from aes.cli.samples import Samples, prepare_samples
from aes.data.processor import Processor
from aes.inference import DecodingSpec, HfEngineSpec
from aes.inference.engine import Engine
from aes.model import ModelSpec
from aes.model.trained import load_trained
from aes.records import Example, Message

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("peer")]

OURS = ("data=sample", "data.copies=2")
NUM_NEW = 12
QUESTION = "写一句话，说说春天。"


@pytest.fixture(scope="module")
def samples(session_cache: Path) -> Samples:
    """What a training on ``OURS`` would see."""
    from rich.console import Console

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AES_CACHE", str(session_cache))
        return prepare_samples(compose_settings(OURS), Console(quiet=True))


@pytest.fixture(scope="module")
def exported(session_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as our command writes it."""
    folder = tmp_path_factory.mktemp("exported") / "essays"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AES_CACHE", str(session_cache))
        assert export_data(OURS, folder) == 0
    return folder


def job(exported: Path, checkpoint: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Settings of LLaMA-Factory as its user would write them, beside those that we wrote."""
    written = yaml.safe_load((exported / "llamafactory.yaml").read_text(encoding="utf-8"))
    return {
        **written,
        "dataset_dir": str(exported),  # the peer is started elsewhere
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(checkpoint),
        "finetuning_type": "lora",
        "lora_target": "q_proj,k_proj,v_proj,o_proj",
        "output_dir": str(out),
        "overwrite_cache": True,
        "report_to": "none",
        **settings,
    }


def test_it_loads_our_data_and_cuts_it_into_our_tokens(
    samples: Samples,
    exported: Path,
    peer_checkpoint: Path,
    ask_peer: Callable[..., Path],
    tmp_path: Path,
) -> None:
    asked = {"ours": job(exported, peer_checkpoint, tmp_path / "out")}
    theirs = json.loads(ask_peer("tokens", asked, ".json").read_text(encoding="utf-8"))["ours"]
    line_feed = samples.processor.tokenizer.encode("\n")
    for part, name in ((samples.train, "train_dataset"), (samples.val, "eval_dataset")):
        for row, their in zip(part.rows, theirs[name], strict=True):
            ids, num_prompt = [*row["input_ids"], *line_feed], row["num_prompt"]
            assert their["input_ids"] == ids
            assert their["labels"] == [-100] * num_prompt + ids[num_prompt:]


@pytest.fixture(scope="module")
def our_run(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At a rate that leaves a mark in three steps."""
    folder = tmp_path_factory.mktemp("ours") / "run"
    return train(folder, "trainer.max_steps=3", "optim.lr=0.02", "loss=ce")


def our_model(run_dir: Path, nano_spec: ModelSpec, cache: Path) -> Any:
    return load_trained(nano_spec, run_dir, cache=cache, precision="fp32", accelerator="cpu")


def inputs_of(row: dict[str, Any], images: Sequence[Any], processor: Processor) -> dict[str, Any]:
    """One sample as arrays, for either side's model."""
    patches, grids = processor.patches(images)
    ids = np.array([row["input_ids"]])
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "mm_token_type_ids": (ids == processor.image_token).astype(np.int64),
        "pixel_values": patches,
        "image_grid_thw": grids,
    }


def logits_of(model: Any, inputs: dict[str, Any]) -> np.ndarray:
    with torch.no_grad():
        out = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return np.asarray(out.logits[0])


def test_it_answers_with_our_adapter_as_we_do(
    samples: Samples,
    our_run: Path,
    peer_checkpoint: Path,
    nano_spec: ModelSpec,
    session_cache: Path,
    read_conf: Callable[..., dict[str, Any]],
    ask_peer: Callable[..., Path],
    tmp_path: Path,
) -> None:
    (example, *_), row = samples.val.examples(), samples.val.rows[0]
    images = [samples.renderer.image(page) for page in example.pages]
    inputs = inputs_of(row, images, samples.processor)
    np.savez(tmp_path / "inputs.npz", **inputs)
    common = {
        "template": "qwen3_vl_nothink",
        "image_max_pixels": 2**20,
        "infer_dtype": "float32",
        "do_sample": False,
        "max_new_tokens": NUM_NEW,
    }
    base = common | {"model_name_or_path": str(peer_checkpoint)}
    adapted = base | {"adapter_name_or_path": str(our_run / "adapter"), "finetuning_type": "lora"}
    merged = tmp_path / "merged"
    request = {
        "inputs": str(tmp_path / "inputs.npz"),
        "num_prompt": row["num_prompt"],
        "num_new": NUM_NEW,
        "chat": [{"role": "user", "content": QUESTION}],
        "export": adapted | {"export_dir": str(merged), "export_device": "cpu"},
        "models": {
            "base": base,
            "adapted": adapted,
            "merged": common | {"model_name_or_path": str(merged)},
        },
    }
    theirs = np.load(ask_peer("answers", request, ".npz"))
    model = our_model(our_run, nano_spec, session_cache)
    ours = logits_of(model, inputs)
    scale = np.abs(ours).max()
    for name in ("adapted", "merged"):
        assert np.abs(theirs[f"logits/{name}"] - ours).max() < 1e-4 * scale, name
    assert np.abs(theirs["logits/base"] - ours).max() > 1e-2 * scale, "the adapter does nothing"
    decoding = read_conf("decoding/expected") | read_conf(
        "decoding/greedy", max_answer_tokens=NUM_NEW
    )
    engine = Engine(
        model=model,
        processor=samples.processor,
        renderer=samples.renderer,
        decoding=DecodingSpec(**decoding),
        precision="fp32",
        spec=HfEngineSpec(**read_conf("engine/hf")),
    )
    decode = samples.processor.tokenizer.decode
    text = Example(id="t", messages=(Message("user", (QUESTION,)),), kind="text")
    page = Example(id="p", messages=example.messages, kind="text")
    about_text, about_page = (answer.text for answer in engine.answer([text, page]))
    for name in ("adapted", "merged"):
        assert str(theirs[f"chat/{name}"]) == about_text, name
        assert decode(theirs[f"page/{name}"], skip_special_tokens=True) == about_page, name


def test_our_adapter_loads_in_plain_peft(
    samples: Samples,
    our_run: Path,
    load_nano: Callable[..., Any],
    nano_spec: ModelSpec,
    session_cache: Path,
) -> None:
    from peft import PeftModel

    (example, *_), row = samples.val.examples(), samples.val.rows[0]
    images = [samples.renderer.image(page) for page in example.pages]
    inputs = inputs_of(row, images, samples.processor)
    ours = logits_of(our_model(our_run, nano_spec, session_cache), inputs)
    plain = PeftModel.from_pretrained(load_nano(), our_run / "adapter").eval()
    assert np.allclose(logits_of(plain, inputs), ours, atol=1e-5 * np.abs(ours).max())


def test_we_go_on_from_its_adapter(
    exported: Path,
    peer: Peer,
    peer_checkpoint: Path,
    train: Callable[..., Path],
    tmp_path: Path,
) -> None:
    settings = job(
        exported,
        peer_checkpoint,
        tmp_path / "out",
        max_steps=2,
        learning_rate=0.02,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        lora_rank=4,
    )
    del settings["eval_dataset"]
    peer.train(settings, folder=tmp_path, threads=2)
    run_dir = train(
        tmp_path / "run",
        f"adapter.init_from={tmp_path / 'out'}",
        "adapter.rank=4",
        "adapter.alpha=8",
        "adapter.modules_to_save=[]",
        "optim=adamw",
        "trainer.max_steps=1",
        "optim.lr=1e-6",
    )
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["val/parse_rate"] == 1.0
    from safetensors.numpy import load_file

    theirs = load_file(tmp_path / "out" / "adapter_model.safetensors")
    ours = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    assert theirs.keys() <= ours.keys()
    for name, weight in theirs.items():
        assert np.abs(ours[name] - weight).max() < 1e-4, name
