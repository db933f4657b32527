"""What does nothing to a run that is trained is refused before anything is read."""

from pathlib import Path

import pytest
from test_cli_conf import settings_of

from aes.cli.validate import check_grading

NO_RUN = Path("no run")


@pytest.mark.parametrize(
    "override",
    [
        "optim=adamw",
        "batching=plain",
        "batching.max_tokens=4096",
        "vision_cache=disk",
        "vision_cache.max_gib=2",
        "kernels.attention=eager",
        "kernels.logit_rows=64",
        "kernels.compile=layers",
        "+trainer.max_steps=2",
    ],
)
def test_settings_of_training_are_refused(override: str) -> None:
    key = override.lstrip("+").partition("=")[0]
    with pytest.raises(ValueError, match=f"^{key} has no effect on a run that is trained"):
        check_grading(settings_of(), NO_RUN, overrides=["decoding=greedy", override])


@pytest.mark.parametrize("override", ["kernels=plain", "kernels.experts=eager"])
def test_how_answers_are_computed_may_be_chosen(override: str) -> None:
    with pytest.raises(ValueError, match="holds neither adapter/"):
        check_grading(settings_of(), NO_RUN, overrides=[override])


@pytest.mark.parametrize(
    "override", ["kernels=plain", "kernels.fused_ops=none", "decoding.batch_size=4"]
)
def test_vllm_has_its_own_kernels_and_batches(override: str) -> None:
    settings = settings_of("engine=vllm_server")
    with pytest.raises(ValueError, match="has no effect on engine=vllm_server; leave it out"):
        check_grading(settings, NO_RUN, overrides=["engine=vllm_server", override])
