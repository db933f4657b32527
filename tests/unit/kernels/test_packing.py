"""Packed rows give what padded ones give, whatever computes them, and no sample sees another."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from aes.kernels.attention import use_attention
from aes.kernels.checkpointing import checkpoint_layers
from aes.kernels.forward import autocast, hidden_states
from aes.model import LoraSpec
from aes.model.adapters import trainable_lora_b
from aes.records import Essay
from aes.training import LossSpec
from aes.training.loss import summed_loss

NAMES = ("varlen", "sdpa", "eager")


@pytest.fixture
def model(load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec]) -> Any:
    """With an adapter that does something."""
    model = load_nano(make_lora(modules_to_save=("visual.merger",)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for b in trainable_lora_b(model):
            b.copy_(torch.randn(b.shape, generator=generator) * 0.05)
    return model


def _rows(batch: dict[str, Tensor], states: Tensor) -> Iterator[Tensor]:
    """Hidden states of each sample, padding left out."""
    if "sequence_lengths" in batch:
        yield from states[0].split(batch["sequence_lengths"].tolist())
    else:
        for row, mask in zip(states, batch["attention_mask"].bool(), strict=True):
            yield row[mask]


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_are_those_of_padded_samples(
    name: Any, model: Any, make_batch: Callable[..., Any], essays: tuple[Essay, ...]
) -> None:
    padded, packed = make_batch(essays[:4]), make_batch(essays[:4], is_packed=True)
    assert packed["input_ids"].shape == (1, int(padded["attention_mask"].sum()))
    with torch.no_grad():
        use_attention(model, "sdpa")
        expected = list(_rows(padded, hidden_states(model, padded)))
        use_attention(model, name)
        found = list(_rows(packed, hidden_states(model, packed)))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_sample_sees_another(
    name: Any, model: Any, make_batch: Callable[..., Any], essays: tuple[Essay, ...]
) -> None:
    use_attention(model, name)
    batch = make_batch(essays[:4], is_packed=True)
    start, end = batch["sequence_lengths"].cumsum(0)[:2].tolist()
    changed = dict(batch)
    changed["input_ids"] = batch["input_ids"].clone()
    is_page = batch["input_ids"][0, start:end] == model.config.image_token_id
    other = torch.where(is_page, model.config.image_token_id, 1000)
    changed["input_ids"][0, start:end] = other
    with torch.no_grad():
        before = list(_rows(batch, hidden_states(model, batch)))
        after = list(_rows(changed, hidden_states(model, changed)))
    differences = [float((a - b).abs().max()) for a, b in zip(before, after, strict=True)]
    assert differences[1] > 1e-3
    # Experts compute the tokens of all samples together, whose number changes the last bits.
    assert max(differences[:1] + differences[2:]) < 5e-6


@pytest.mark.parametrize("loss", ["ce", "valid_digits"])
@pytest.mark.parametrize(
    ("name", "is_packed", "policy"),
    [("varlen", True, "none"), ("varlen", False, "none"), ("varlen", True, "all")],
)
def test_loss_and_gradients_are_those_of_the_plain_way(
    loss: Any,
    name: Any,
    is_packed: bool,
    policy: Any,
    model: Any,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
    processor: Any,
) -> None:
    spec, steps = LossSpec(name=loss, feedback_weight=0.5), processor.guide.table

    def run(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        found = summed_loss(model, batch, spec=spec, score_steps=steps)
        found = found / batch["num_supervised_in_step"]
        found.backward()  # type: ignore[no-untyped-call]
        named = model.named_parameters()
        return found.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}

    model.train()
    use_attention(model, "sdpa")
    plain_loss, plain_gradients = run(make_batch(essays[:4]))
    use_attention(model, name)
    checkpoint_layers(model, policy, 1)
    found_loss, gradients = run(make_batch(essays[:4], is_packed=is_packed))
    assert float(found_loss) == pytest.approx(float(plain_loss), abs=1e-5)
    assert gradients.keys() == plain_gradients.keys()
    largest = max(float(g.abs().max()) for g in plain_gradients.values())
    for key, gradient in gradients.items():
        difference = float((gradient - plain_gradients[key]).abs().max())
        assert difference < 1e-4 * largest, key


def test_under_autocast_too(
    model: Any, make_batch: Callable[..., Any], essays: tuple[Essay, ...]
) -> None:
    padded, packed = make_batch(essays[:3]), make_batch(essays[:3], is_packed=True)
    with torch.no_grad(), autocast("bf16", torch.device("cpu")):
        expected = list(_rows(padded, hidden_states(model, padded)))
        use_attention(model, "varlen")
        found = list(_rows(packed, hidden_states(model, packed)))
    for ours, theirs in zip(found, expected, strict=True):
        share = (ours - theirs).float().norm() / theirs.float().norm()
        assert float(share) < 0.03
