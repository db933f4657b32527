"""Only last tokens through the last layer's experts: the same states, and the model as it was."""

from typing import Any

import pytest
import torch

from aes.kernels.forward import hidden_states
from aes.kernels.patches import linear_patches
from aes.kernels.prefill import last_tokens_only


def _batch() -> tuple[dict[str, Any], torch.Tensor]:
    ids = torch.randint(0, 1000, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    positions = torch.arange(11).expand(3, 3, -1)
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return batch, mask.sum(dim=1) - 1


@torch.no_grad()
def test_the_states_are_those_of_the_whole_pass(sure_nano: Any) -> None:
    batch, last = _batch()
    whole = hidden_states(sure_nano, batch)[torch.arange(3), last]
    with last_tokens_only(sure_nano, last) as is_shortened:
        short = hidden_states(sure_nano, batch)
    assert is_shortened
    assert short.shape[1] == 1
    torch.testing.assert_close(short[:, 0], whole, atol=1e-5, rtol=1e-5)
    assert hidden_states(sure_nano, batch).shape[1] == 11


def test_the_layer_is_itself_again_even_after_an_error(sure_nano: Any) -> None:
    layer = sure_nano.model.language_model.layers[-1]
    with pytest.raises(RuntimeError), last_tokens_only(sure_nano, torch.tensor([0])):
        raise RuntimeError
    assert "forward" not in layer.__dict__


@torch.no_grad()
def test_a_last_layer_that_takes_pages_in_is_left_whole(
    sure_nano: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sure_nano.model.visual, "deepstack_visual_indexes", [0, 1])
    batch, last = _batch()
    with last_tokens_only(sure_nano, last) as is_shortened:
        assert not is_shortened
        assert hidden_states(sure_nano, batch).shape[1] == 11


@torch.no_grad()
def test_patches_by_a_product_are_those_of_the_convolution(load_nano: Any) -> None:
    model = load_nano()
    embed = model.model.visual.patch_embed
    patches = torch.randn(24, 1536, generator=torch.Generator().manual_seed(0))
    before = embed(patches)
    linear_patches(model)
    torch.testing.assert_close(embed(patches), before, atol=1e-5, rtol=1e-5)
