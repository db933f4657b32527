"""Adapters from elsewhere: what they change is read, and begins a training, or is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aes.kernels.forward import hidden_states
from aes.model import LoraSpec, ModelSpec
from aes.model.adapter_file import LoraUpdate, read_adapter
from aes.model.adapter_names import named_sets
from aes.model.adapters import add_adapter
from aes.model.loading import load_base
from aes.records import Essay

MakeLora = Callable[..., LoraSpec]
MakeAdapter = Callable[..., Path]


@pytest.fixture(scope="module")
def make_adapter(nano_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    """An adapter as plain PEFT, or LLaMA-Factory through it, writes one; no matrix is zero."""
    from peft import LoraConfig, get_peft_model

    def make(*words: str, **changes: Any) -> Path:
        model: Any = load_base(nano_checkpoint, dtype=torch.float32)
        # LLaMA-Factory names every module of a model that sees by its full name.
        names = [
            name
            for name, _ in model.named_modules()
            if "visual" not in name and any(name.endswith(word) for word in words)
        ]
        options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": names}
        peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options | changes))
        generator = torch.Generator().manual_seed(5)
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        folder = tmp_path_factory.mktemp("elsewhere")
        peft_model.save_pretrained(folder, save_embedding_layers=False)
        return folder

    return make


@pytest.fixture(scope="module")
def q_and_v(make_adapter: MakeAdapter) -> Path:
    return make_adapter("q_proj", "v_proj")


def changed(folder: Path, copy: Path, **changes: Any) -> Path:
    """A copy of an adapter with other settings."""
    shutil.copytree(folder, copy)
    file = copy / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return copy


def renamed(folder: Path, copy: Path, name: Callable[[str], str]) -> Path:
    """A copy of an adapter whose weights are called otherwise."""
    shutil.copytree(folder, copy)
    file = copy / "adapter_model.safetensors"
    save_file({name(key): tensor for key, tensor in load_file(file).items()}, file)
    return copy


def test_the_settings_of_an_adapter_are_read(q_and_v: Path, make_adapter: MakeAdapter) -> None:
    file = read_adapter(q_and_v)
    assert (file.rank, file.alpha, file.scale) == (4, 8.0, 2.0)
    assert file.targets == ("q_proj", "v_proj")
    root = read_adapter(make_adapter("q_proj", "k_proj", "v_proj", "o_proj", use_rslora=True))
    assert root.targets == ("attention",)
    assert root.scale == pytest.approx(8 / 4**0.5), "alpha over the root of the rank"


def test_sets_are_named_where_all_their_matrices_are_there() -> None:
    assert named_sets({"q_proj", "k_proj", "v_proj", "o_proj", "up_proj"}) == (
        "attention", "up_proj"
    )  # fmt: skip
    assert named_sets({"vision", "mlp", "k_proj"}) == ("mlp", "k_proj", "vision")


@pytest.mark.parametrize(
    ("words", "targets", "changes"),
    [
        (("q_proj", "v_proj"), ("q_proj", "v_proj"), {}),
        (
            ("q_proj", "k_proj", "v_proj", "o_proj"),
            ("attention", "experts"),
            {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
        ),
        ((), ("experts",), {"target_parameters": ["experts.down_proj", "experts.gate_up_proj"]}),
        (("o_proj",), ("o_proj",), {"modules_to_save": ["visual.merger"]}),
    ],
)
def test_training_begins_where_the_adapter_ended(
    make_adapter: MakeAdapter,
    make_lora: MakeLora,
    load_nano: Callable[..., Any],
    nano_checkpoint: Path,
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
    words: tuple[str, ...],
    targets: tuple[str, ...],
    changes: dict[str, Any],
) -> None:
    from peft import PeftModel

    folder = make_adapter(*words, **changes)
    plain = PeftModel.from_pretrained(load_base(nano_checkpoint, dtype=torch.float32), folder)
    whole = tuple(changes.get("modules_to_save", ()))
    spec = make_lora(rank=4, alpha=8, targets=targets, modules_to_save=whole, init_from=folder)
    ours = load_nano(spec)
    batch = make_batch(essays[:2])
    with torch.no_grad():
        expected, found = (hidden_states(model, batch) for model in (plain, ours))
        base = hidden_states(load_nano(), batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - base).abs().max() > 1e-3, "the adapter does nothing"
    assert all(p.dtype == torch.float32 for p in ours.parameters() if p.requires_grad)


def test_settings_that_do_not_agree_are_told_with_their_cure(
    q_and_v: Path, make_lora: MakeLora, load_nano: Callable[..., Any]
) -> None:
    told = r"set adapter.rank=4 adapter.alpha=8 adapter.targets=\[q_proj,v_proj\], or leave"
    with pytest.raises(ValueError, match=told):
        load_nano(make_lora(init_from=q_and_v))


def test_what_is_told_of_an_adapter_scaled_by_a_root_is_taken(
    make_adapter: MakeAdapter, make_lora: MakeLora
) -> None:
    import re

    file = read_adapter(make_adapter("q_proj", "v_proj", r=8, lora_alpha=16, use_rslora=True))
    with pytest.raises(ValueError, match=r"adapter\.alpha=") as told:
        file.require_agreement(make_lora(alpha=16, targets=("q_proj", "v_proj")))
    (alpha,) = re.findall(r"adapter\.alpha=(\S+?),", str(told.value))
    file.require_agreement(make_lora(alpha=alpha, targets=("q_proj", "v_proj")))
    assert file.alpha == pytest.approx(16 * 8**0.5)


def test_older_names_are_understood(
    q_and_v: Path, make_lora: MakeLora, load_nano: Callable[..., Any], tmp_path: Path
) -> None:
    spec = make_lora(rank=4, alpha=8, targets=("q_proj", "v_proj"), init_from=q_and_v)
    expected = {n: p for n, p in load_nano(spec).named_parameters() if "lora_" in n}
    older = {
        "adapter's own name": lambda key: key.replace("lora_A.", "lora_A.default."),
        "language model first": lambda key: key.replace(
            "model.model.language_model.", "model.language_model.model."
        ),
        "no prefix": lambda key: key.removeprefix("base_model.model."),
    }
    for number, (what, name) in enumerate(older.items()):
        folder = renamed(q_and_v, tmp_path / str(number), name)
        found = load_nano(make_lora(**vars(spec) | {"init_from": folder}))
        for key, parameter in found.named_parameters():
            if key in expected:
                torch.testing.assert_close(parameter, expected[key], msg=what)


def test_pickled_weights_are_read_without_running_them(q_and_v: Path, tmp_path: Path) -> None:
    folder = changed(q_and_v, tmp_path / "old")
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter_model.bin")
    file.unlink()
    assert read_adapter(folder).targets == ("q_proj", "v_proj")
    import pickle

    (folder / "adapter_model.bin").write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="cannot be read"):
        read_adapter(folder)


def test_experts_saved_the_other_way_round_are_turned() -> None:
    experts, rank, num_in, num_out = 3, 2, 5, 7
    generator = torch.Generator().manual_seed(1)
    update = LoraUpdate(
        torch.randn(experts * rank, num_in, generator=generator),
        torch.randn(num_out, rank * experts, generator=generator),
    )

    def delta(update: LoraUpdate) -> torch.Tensor:
        a = update.a.reshape(experts, rank, -1)
        b = update.b.reshape(-1, rank, experts)
        return torch.einsum("ore,eri->eoi", b, a)

    turned = update.turned(experts)
    torch.testing.assert_close(delta(turned), delta(update).transpose(1, 2))
    torch.testing.assert_close(turned.turned(experts).a, update.a)


def test_an_adapter_that_tuned_the_router_is_refused(q_and_v: Path, tmp_path: Path) -> None:
    folder = renamed(
        q_and_v, tmp_path / "router", lambda key: key.replace("self_attn.v_proj", "mlp.gate")
    )
    with pytest.raises(ValueError, match=r"also tunes the router \(model\.language_model\.layers"):
        _ = read_adapter(folder).targets


def test_a_router_that_was_trained_whole_is_refused_alike(q_and_v: Path, tmp_path: Path) -> None:
    folder = changed(q_and_v, tmp_path / "router", modules_to_save=["gate"])
    file = folder / "adapter_model.safetensors"
    name = "base_model.model.model.language_model.layers.0.mlp.gate.modules_to_save.weight"
    save_file(load_file(file) | {name: torch.zeros(4, 8)}, file)
    with pytest.raises(ValueError, match=r"also tunes the router .*layers\.0\.mlp\.gate and 0"):
        _ = read_adapter(folder).targets


def test_an_adapter_of_unknown_modules_is_refused(q_and_v: Path, tmp_path: Path) -> None:
    folder = renamed(
        q_and_v, tmp_path / "unknown", lambda key: key.replace("self_attn.v_proj", "ssm.mixer")
    )
    with pytest.raises(ValueError, match=r"tunes model.*ssm\.mixer and 1 more modules that noth"):
        _ = read_adapter(folder).targets


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"rank_pattern": {"q_proj": 8}},
        {"init_lora_weights": "pissa_niter_4"},
        {"peft_type": "LOHA"},
    ],
)
def test_what_is_no_plain_lora_is_refused(
    q_and_v: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"has {next(iter(changes))}.*but only plain LoRA"):
        read_adapter(changed(q_and_v, tmp_path / "odd", **changes))


def test_what_is_no_adapter_or_torn_is_refused(q_and_v: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        read_adapter(tmp_path)
    torn = changed(q_and_v, tmp_path / "torn")
    file = torn / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(key for key in tensors if "lora_B" in key)]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"one of the two matrices of .*_proj alone"):
        read_adapter(torn)
    file.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"the weights in .* cannot be read"):
        read_adapter(torn)
    file.unlink()
    with pytest.raises(ValueError, match=r"holds no adapter_model\.safetensors"):
        read_adapter(torn)


def test_an_adapter_of_another_size_is_refused(
    q_and_v: Path,
    make_lora: MakeLora,
    load_nano: Callable[..., Any],
    tmp_path: Path,
) -> None:
    folder = changed(q_and_v, tmp_path / "wide")
    file = folder / "adapter_model.safetensors"
    wide = {k: torch.cat([t, t], 1) if "lora_A" in k else t for k, t in load_file(file).items()}
    save_file(wide, file)
    spec = make_lora(rank=4, alpha=8, targets=("q_proj", "v_proj"), init_from=folder)
    with pytest.raises(ValueError, match="has no place of its size"):
        load_nano(spec)


def test_single_matrices_and_mlps_are_targets(
    nano_spec: ModelSpec, read_conf: Callable[..., dict[str, Any]], make_lora: MakeLora
) -> None:
    from aes.model.loading import build_on_meta

    dense = ModelSpec(**read_conf("model/qwen3_vl_2b", path=None))
    for targets, words in (
        (("mlp",), {"gate_proj", "up_proj", "down_proj"}),
        (("k_proj", "down_proj"), {"k_proj", "down_proj"}),
    ):
        model = build_on_meta(dense, make_lora(targets=targets))
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == words
        assert not any("visual" in name for name in trained)
    with pytest.raises(ValueError, match="this model has experts in its place"):
        build_on_meta(nano_spec, make_lora(targets=("attention", "mlp")))


def test_a_new_adapter_still_begins_at_zero(
    load_nano: Callable[..., Any], make_lora: MakeLora
) -> None:
    model = add_adapter(load_nano(), make_lora())
    assert all(not p.any() for n, p in model.named_parameters() if "lora_B" in n)
