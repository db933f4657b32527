"""Writes ``fixtures/``: small data sets in LLaMA-Factory's formats, and what it makes of them.

    python tests/interop/make_fixtures.py LLAMAFACTORY_PYTHON

The data sets are ours; ``recorded.json`` holds the token ids that LLaMA-Factory gives them with
the nano's tokenizer, and the spans of them that it learns from.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIXTURES = HERE / "fixtures"
RECORDED = FIXTURES / "recorded.json"
JOBS: dict[str, dict[str, Any]] = {
    "alpaca": {},
    "alpaca_renamed": {},
    "alpaca_lines": {},
    "sharegpt": {},
    "sharegpt/last": {"mask_history": True},
    "sharegpt_images": {},
    "openai": {},
}
"""Jobs by name: a data set's name, and behind a slash what sets it apart."""

ALPACA = [
    {
        "instruction": "改成比喻句。",
        "input": "月亮很圆。",
        "output": "月亮像一面铜镜。",
    },
    {"instruction": "写出“勤奋”的反义词。", "input": "", "output": "懒惰"},
    {
        "instruction": "Count to three.",
        "input": "In words:\n- each",
        "output": "one\ntwo\nthree\n",
    },
]
RENAMED = [
    {
        "question": "那么第二段呢？",
        "answer": "第二段写雨后。",
        "role": "你是语文老师。",
        "before": [["第一段写什么？", "第一段写雨。"], ["写得好吗？", "好。"]],
    },
    {"question": "续写一句。", "answer": "风停了。", "role": "", "before": []},
]
SHAREGPT = [
    {
        "conversations": [
            {"from": "human", "value": "“画蛇添足”是什么意思？"},
            {"from": "gpt", "value": "多此一举。"},
            {"from": "human", "value": "造一个句子。"},
            {"from": "gpt", "value": "结尾那段议论真是画蛇添足。"},
        ],
        "system": "回答要短。",
    },
    {
        "conversations": [
            {"from": "system", "value": "你是编辑。"},
            {"from": "human", "value": " 前后有空格 "},
            {"from": "gpt", "value": "已删去。\n"},
        ],
        "system": "",
    },
]
IMAGES = [
    {
        "messages": [
            {"role": "user", "content": "<image>图中是什么？"},
            {"role": "assistant", "content": "一片渐变的颜色。"},
        ],
        "images": ["images/256x256.png"],
    },
    {
        "messages": [
            {"role": "user", "content": "比较<image>和<image>。"},
            {"role": "assistant", "content": "第二幅更宽。"},
            {"role": "user", "content": "再看<image>"},
            {"role": "assistant", "content": "这一幅与第一幅相同。"},
        ],
        "images": ["images/256x256.png", "images/384x256.png", "images/256x256.png"],
    },
    {
        "messages": [
            {"role": "user", "content": "边长不是三十二的倍数<image>"},
            {"role": "assistant", "content": "是的。"},
        ],
        "images": ["images/301x275.png"],
    },
]
OPENAI = [
    {
        "messages": [
            # Without these words LLaMA-Factory adds them, in this format alone; we do not.
            {"role": "system", "content": "You are brief.\ndetailed thinking off"},
            {"role": "user", "content": "Name a season."},
            {"role": "assistant", "content": "Spring."},
        ]
    }
]
REGISTRY: dict[str, Any] = {
    "alpaca": {"file_name": "alpaca.json", "customized_status": "ready", "total_tokens": "96"},
    "alpaca_renamed": {
        "file_name": "renamed.json",
        "columns": {
            "prompt": "question",
            "response": "answer",
            "system": "role",
            "history": "before",
        },
    },
    "alpaca_lines": {"file_name": "alpaca.jsonl", "formatting": "alpaca"},
    "sharegpt": {
        "file_name": "sharegpt.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system"},
    },
    "sharegpt_images": {
        "file_name": "images.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    },
    "openai": {
        "file_name": "openai.json",
        "formatting": "openai",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
}


def write_data(folder: Path) -> None:
    """The data sets, their registry, and the images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    files = {"dataset_info": REGISTRY, "alpaca": ALPACA, "renamed": RENAMED, "sharegpt": SHAREGPT}
    for name, content in (files | {"images": IMAGES, "openai": OPENAI}).items():
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in ALPACA)
    (folder / "alpaca.jsonl").write_text(lines, encoding="utf-8")
    for width, height in ((256, 256), (384, 256), (301, 275)):
        rows, columns = np.mgrid[:height, :width] // 8 % 256
        pixels = np.stack([rows * 4, columns * 4, 255 - rows * 4], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{width}x{height}.png", optimize=True)


def jobs(folder: Path, checkpoint: Path, out: Path) -> dict[str, Any]:
    """What LLaMA-Factory is told, by job."""
    return {
        name: {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": str(checkpoint),
            "template": "qwen3_vl_nothink",
            "finetuning_type": "lora",
            "dataset_dir": str(folder),
            "dataset": name.partition("/")[0],
            "cutoff_len": 2048,
            "overwrite_cache": True,
            "output_dir": str(out),
            "report_to": "none",
            **settings,
        }
        for name, settings in JOBS.items()
    }


def learned_spans(labels: list[int]) -> list[list[int]]:
    """Where labels are learned from: first and one past the last, for each stretch."""
    spans, start = [], 0
    for is_learned, group in groupby(labels, lambda label: label != -100):
        end = start + len(list(group))
        if is_learned:
            spans.append([start, end])
        start = end
    return spans


def condense(found: dict[str, Any]) -> dict[str, Any]:
    """What ``peer/tokens.py`` wrote, as it is recorded."""
    return {
        name: [
            {"input_ids": row["input_ids"], "learned": learned_spans(row["labels"])}
            for row in parts["train_dataset"]
        ]
        for name, parts in found.items()
    }


def main() -> None:
    """Write everything."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from comparing.peer import find_peer, write_checkpoint

    from aes.model import ModelSpec
    from aes.model.loading import model_folder

    write_data(FIXTURES)
    values = yaml.safe_load((ROOT / "conf" / "model" / "nano.yaml").read_text(encoding="utf-8"))
    spec = ModelSpec(**{k: v for k, v in values.items() if k not in ("_target_", "defaults")})
    peer = find_peer(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_checkpoint(model_folder(spec, folder / "cache"), folder / "checkpoint")
        request, answer = folder / "request.json", folder / "answer.json"
        asked = jobs(FIXTURES, folder / "checkpoint", folder / "out")
        request.write_text(json.dumps(asked), encoding="utf-8")
        script = str(HERE / "peer" / "tokens.py")
        peer.run([script, str(request), str(answer)], folder=folder, threads=2)
        found = condense(json.loads(answer.read_text(encoding="utf-8")))
    content = {"made_by": "python tests/interop/make_fixtures.py", "with": peer.versions} | {
        "samples": found
    }
    RECORDED.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
