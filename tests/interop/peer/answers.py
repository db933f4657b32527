"""Run in LLaMA-Factory's environment: models and questions -> logits, chat answers, merged weights.

    python answers.py REQUEST.json OUT.npz

A request holds ``models`` (arguments of inference by name), ``inputs`` (an .npz of one sample),
``num_prompt`` (its tokens before the answer), ``num_new`` (tokens to write about its page),
``chat`` (messages without images) and ``export`` (arguments of an export, which is done first).

About a page its models are asked by ``generate``: chat of LLaMA-Factory 0.9.5 does not tell
transformers 5 where images stand (``mm_token_type_ids``), which then counts positions as in text.
"""

import inspect
import json
import sys
from pathlib import Path

import numpy as np
import torch
from llamafactory.chat import ChatModel
from llamafactory.train.tuner import export_model

request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
export_model(request["export"])
inputs = {name: torch.from_numpy(array) for name, array in np.load(request["inputs"]).items()}
found = {}
for name, arguments in request["models"].items():
    chat = ChatModel(arguments)
    known = inspect.signature(chat.engine.model.forward).parameters
    with torch.no_grad():
        out = chat.engine.model(**{key: value for key, value in inputs.items() if key in known})
    found[f"logits/{name}"] = out.logits[0].float().numpy()
    (answer,) = chat.chat(request["chat"])
    found[f"chat/{name}"] = np.array(answer.response_text)
    prompt = {
        key: value[:, : request["num_prompt"]] if value.shape[0] == 1 else value
        for key, value in inputs.items()
        if key != "image_grid_thw"
    }
    written = chat.engine.model.generate(
        **prompt,
        image_grid_thw=inputs["image_grid_thw"],
        max_new_tokens=request["num_new"],
        do_sample=False,
    )
    found[f"page/{name}"] = written[0, request["num_prompt"] :].numpy()
np.savez(sys.argv[2], **found)
