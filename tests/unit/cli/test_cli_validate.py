"""What is said about a wrong value; the values are those of conf/ with one of them changed."""

import copy
from typing import Any

import pytest
from test_cli_conf import settings_of

from aes.cli.settings import bind_target


@pytest.fixture(scope="module")
def resolved() -> dict[str, Any]:
    return settings_of("page=scan").resolved


def sentence_for(resolved: dict[str, Any], key: str, value: object) -> str:
    values = copy.deepcopy(resolved)
    *path, last = key.split(".")
    node = values
    for name in path:
        node = node[name]
    node[last] = value
    with pytest.raises(ValueError) as raised:
        bind_target(values[path[0]], path=path[0])
    return str(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("adapter.rank", "eight", 'adapter.rank: must be a whole number, got "eight"'),
        ("adapter.rank", "8", 'adapter.rank: must be a whole number, got "8"'),
        ("adapter.rank", True, "adapter.rank: must be a whole number, got true"),
        ("adapter.rank", 8.0, "adapter.rank: must be a whole number, got 8.0"),
        ("adapter.rank", 2000, "adapter.rank: must be at most 1024, got 2000"),
        ("adapter.alpha", 0, "adapter.alpha: must be greater than 0, got 0"),
        ("adapter.alpha", float("inf"), "adapter.alpha: must be a finite number, got inf"),
        ("adapter.dropout", 1, "adapter.dropout: must be less than 1, got 1"),
        (
            "adapter.targets",
            ["attention", "expert"],
            "adapter.targets.1: must be 'attention', 'mlp', 'experts', 'vision', 'q_proj', "
            "'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj' or 'down_proj', got \"expert\"",
        ),
        (
            "adapter.targets",
            "attention",
            'adapter.targets: must be a list, as in key=[a,b], got "attention"',
        ),
        ("optim.betas", [0.9], "optim.betas: must hold more values, got [0.9]"),
        ("optim.lrr", 1, "optim.lrr is not a setting; did you mean optim.lr?"),
        ("optim.schedule", "cosin", "optim.schedule: must be 'cosine', 'linear' or 'constant'"),
        ("model.text.num_layer", 1, "did you mean model.text.num_layers?"),
        ("model.text", None, "model.text: must be a group of settings, got null"),
        ("page.scan.blur", 1, "page.scan.blur is not a setting; did you mean page.scan.blur_px?"),
        ("page.scan.blur_px", -1, "page.scan.blur_px: must be at least 0, got -1"),
        ("page.scan._target_", "aes.page.PageSpec", "PageSpec does not belong there"),
        ("page.width_px", 100, "page.width_px: must be a multiple of 32, got 100"),
        ("page.style", "none", "page.font has no effect with page.style none"),
        (
            "model.modules_to_save",
            [0, 1],
            "must be text, got 0; quote each twice, as in \"model.modules_to_save=['...','...']\"",
        ),
        ("logger.name", 5, "logger.name: must be text, got 5; quote it twice, as in logger.name="),
        ("rubric.traits.content.minimum", 30, "minimum 30 must be below maximum 20"),
        ("optim._target_", "aes.training.OptmSpec", "did you mean aes.training.OptimSpec?"),
        ("optim._target_", "aes.trainin.OptimSpec", "no module aes.trainin"),
        ("optim._target_", "os.system", "must name a class of aes, got 'os.system'"),
        ("optim._target_", None, "must name a class of aes, got None"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(
    resolved: dict[str, Any], key: str, value: object, sentence: str
) -> None:
    assert sentence in sentence_for(resolved, key, value)


def test_every_value_as_it_stands_is_right(resolved: dict[str, Any]) -> None:
    assert bind_target(resolved["page"], path="page").scan is not None
