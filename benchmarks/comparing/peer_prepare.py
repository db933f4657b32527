"""Run by LLaMA-Factory's interpreter: times its own preparation of a job, prints one JSON line.

    PEER_ENV/bin/python comparing/peer_prepare.py JOB.yaml NUM_BATCHES

``before``: ``get_dataset``, which reads the file and makes token ids, the images opened and
processed for their sizes. ``loader``: its collator on so many batches, which opens and processes
the images again. Imports nothing of ours.
"""

import json
import sys
import time
from pathlib import Path

from llamafactory.data import (
    SFTDataCollatorWith4DAttentionMask,
    get_dataset,
    get_template_and_fix_tokenizer,
)
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer


def main() -> None:
    """Prepare as its ``run_sft`` does, up to the first step."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(settings)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    start, start_cpu = time.perf_counter(), time.process_time()
    rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)
    before_s, before_cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    model = load_model(module["tokenizer"], model_args, finetuning_args, is_trainable=True)
    collator = SFTDataCollatorWith4DAttentionMask(
        template=template,
        model=model,
        pad_to_multiple_of=8,
        compute_dtype=model_args.compute_dtype,
        attn_implementation=model.config._attn_implementation,
        **module,
    )
    size, data = training_args.per_device_train_batch_size, rows["train_dataset"]
    num_batches = min(int(sys.argv[2]), len(data) // size)
    start, start_cpu = time.perf_counter(), time.process_time()
    for at in range(0, num_batches * size, size):
        batch = collator([dict(data[i]) for i in range(at, at + size)])
    found = {
        "num_samples": len(data),
        "before_s": before_s,
        "before_cpu_s": before_cpu_s,
        "num_collated": num_batches * size,
        "loader_s": time.perf_counter() - start,
        "loader_cpu_s": time.process_time() - start_cpu,
        "tokens": [len(ids) for ids in data["input_ids"]],
        "patches": list(batch["pixel_values"].shape),
    }
    print("PREPARED " + json.dumps(found))


if __name__ == "__main__":
    main()
