"""What is known of strategies without starting ranks; what they do is in tests/integration."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from aes.hardware import HardwareSpec, StrategySpec
from aes.kernels.forward import hidden_states
from aes.model import LoraSpec
from aes.model.spec import NoAdapterSpec
from aes.model.zero import deepspeed_config
from aes.ranks import ALONE, Ranks
from aes.records import Essay
from aes.training.optimizer_states import own_piece
from aes.training.requirements import check_strategy_requirements, require_possible
from aes.training.strategies import RanksEnvironment, build_strategy


def _spec(name: str) -> StrategySpec:
    return StrategySpec(name=name)  # type: ignore[arg-type]


def test_single_stays_on_its_device_and_is_lightnings_own(
    read_conf: Callable[..., dict[str, Any]],
) -> None:
    hardware = HardwareSpec(**read_conf("hardware/cpu"))
    strategy = build_strategy(_spec("single"), hardware, ranks=ALONE)
    assert isinstance(strategy, SingleDeviceStrategy)
    assert strategy.root_device == torch.device("cpu")


@pytest.mark.parametrize(("rank", "node"), [(0, 0), (3, 0), (4, 1), (7, 1)])
def test_lightning_is_told_where_a_rank_stands(rank: int, node: int) -> None:
    ranks = Ranks(rank=rank, local_rank=rank % 4, num_ranks=8, num_nodes=2, from_outside=True)
    told = RanksEnvironment(ranks)
    assert told.creates_processes_externally
    assert (told.global_rank(), told.local_rank(), told.node_rank()) == (rank, rank % 4, node)
    assert told.world_size() == 8
    with pytest.raises(AssertionError):
        told.set_world_size(4)


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3), ("zero3_offload", 3)])
def test_deepspeed_is_told_no_dtype_and_no_accumulation(name: str, stage: int) -> None:
    settings = deepspeed_config(_spec(name), micro_batch_size=2)
    assert settings["zero_optimization"]["stage"] == stage
    assert ("offload_param" in settings["zero_optimization"]) == (name == "zero3_offload")
    assert not {"bf16", "fp16", "gradient_accumulation_steps"} & settings.keys()


@pytest.mark.parametrize("name", ["single", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2"])
def test_experts_are_refused_where_weights_are_sharded(
    name: str, make_lora: Callable[..., LoraSpec]
) -> None:
    strategy, experts = _spec(name), make_lora(targets=("attention", "experts"))
    require_possible(strategy, make_lora())
    require_possible(strategy, NoAdapterSpec())
    if strategy.shards_weights:
        with pytest.raises(ValueError, match="use strategy=zero2 or ddp"):
            require_possible(strategy, experts)
    else:
        require_possible(strategy, experts)


def test_a_machine_without_deepspeed_is_told_so(
    monkeypatch: pytest.MonkeyPatch, read_conf: Callable[..., dict[str, Any]]
) -> None:
    hardware = HardwareSpec(**read_conf("hardware/cpu"))
    monkeypatch.setenv("DS_ACCELERATOR", "")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    check_strategy_requirements(_spec("fsdp2"), hardware)
    with pytest.raises(ValueError, match="strategy=zero2 needs DeepSpeed, which cannot be loaded"):
        check_strategy_requirements(_spec("zero2"), hardware)


class _Cut:
    """A parameter as ZeRO-3 leaves it: a piece of it, filled up."""

    def __init__(self, size: int) -> None:
        self.ds_tensor = torch.zeros(size)


def test_pieces_put_together_are_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    value = torch.arange(10.0).reshape(2, 5)
    pieces = []
    for rank in range(4):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        pieces.append(own_piece(_Cut(3), value))
    assert torch.cat(pieces).tolist() == [*range(10), 0.0, 0.0]


def test_what_is_trained_in_the_tower_gets_a_gradient_without_pages(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
) -> None:
    batch = make_batch(essays[:1])
    text = {k: v[..., -5:] for k, v in batch.items() if k in ("input_ids", "position_ids")}
    text["attention_mask"] = torch.ones_like(text["input_ids"])
    model = load_nano(make_lora(modules_to_save=("visual.merger",)))
    states = hidden_states(model, text)
    states.sum().backward()  # type: ignore[no-untyped-call]
    trained = [p for n, p in model.named_parameters() if p.requires_grad and "merger" in n]
    assert trained
    assert all(p.grad is not None and not p.grad.any() for p in trained)
    frozen = load_nano(make_lora())
    assert torch.equal(hidden_states(frozen, text), states)
