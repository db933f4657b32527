"""Ways of computing a training pass, each as what it changes of ``kernels=plain``.

Beside the settings of ``KernelSpec``: the policy of checkpointing, features of pages in place of
their pixels, and samples packed in a row.
"""

from __future__ import annotations

from typing import Any

OPTIONS: dict[str, dict[str, Any]] = {
    "batched_mm": {"experts": "batched_mm"},
    "grouped_mm": {"experts": "grouped_mm"},
    "frozen experts": {"experts": "frozen"},
    "eager attention": {"attention": "eager"},
    "varlen": {"attention": "varlen"},
    "logits in chunks": {"logit_rows": 16},
    "head as attention": {"logit_rows": 0},
    "fused": {"fused_ops": "all"},
    "recomputed attention": {"policy": "attention"},
    "recomputed layers": {"policy": "every_nth"},
    "all recomputed": {"policy": "all"},
    "page features": {"features": True},
    "packed": {"attention": "varlen", "packed": True},
    "all at once": {
        "experts": "frozen",
        "attention": "varlen",
        "logit_rows": 16,
        "fused_ops": "all",
        "policy": "all",
        "features": True,
        "packed": True,
    },
}
