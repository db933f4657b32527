"""Run in LLaMA-Factory's environment: a job's settings -> the tokens and labels of its data sets.

python tokens.py SETTINGS.json OUT.json
"""

import json
import sys
from pathlib import Path

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

settings, out = (Path(argument) for argument in sys.argv[1:])
jobs = json.loads(settings.read_text(encoding="utf-8"))
found = {}
for name, job in jobs.items():
    model_args, data_args, training_args, _, _ = get_train_args(job)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)
    found[name] = {
        split: [
            {"input_ids": row["input_ids"], "labels": row["labels"], "images": row["images"]}
            for row in data[split]
        ]
        for split in ("train_dataset", "eval_dataset")
        if split in data
    }
out.write_text(json.dumps(found), encoding="utf-8")
