"""The names that runs log -> W&B workspaces that show them, one for runs and one for sweeps.

Defined with wandb-workspaces (the extra ``dashboards``) and built without a network. Knows no run:
a metric that a run does not have leaves its panel empty.
"""

from __future__ import annotations

from typing import Any

QWK, MAE, LOSS = "val/qwk/total", "val/mae/total", "train/loss"
SAMPLES = "val/samples"
# Whatever traits a rubric has; what follows a further slash is a part of the essays.
QWK_OF_TRAITS = "^val/qwk/[^/]+$"
BASELINES = ("length_ridge", "mean")
# Kinds of harm on the ladder of degraded copies (aes/corpus/degrade.yaml).
OPERATIONS = ("cut", "no_ending", "shuffle", "typo", "repeat")

# What the shipped sweeps vary. An axis of numbers can be drawn, words only be grouped by.
SWEPT_NUMBERS = (
    "adapter.rank",
    "adapter.alpha",
    "adapter.dropout",
    "optim.lr",
    "optim.warmup_ratio",
    "trainer.max_epochs",
)
SWEPT_WORDS = ("optim.schedule",)
_SPREAD: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}


def runs_workspace(entity: str, project: str) -> Any:
    """How runs learn, grade and use the machine, over optimiser steps.

    Args:
        entity: Team or user that owns the project.
        project: As in ``logger.project``.

    Returns:
        A ``wandb_workspaces.workspaces.Workspace``, not saved.
    """
    import wandb_workspaces.workspaces as ws

    wide = ws.SectionLayoutSettings(columns=1, rows=1)
    return ws.Workspace(
        entity=entity,
        project=project,
        name="aes: runs",
        sections=[
            ws.Section(name="Agreement with markers", panels=_agreement(), is_open=True),
            ws.Section(name="Training", panels=_training(), is_open=True),
            ws.Section(name="Samples", panels=_samples(), is_open=True, layout_settings=wide),
        ],
        runset_settings=ws.RunsetSettings(
            pinned_columns=["run:state", "run:group", f"summary:{QWK}", f"summary:{MAE}"]
        ),
    )


def sweep_workspace(entity: str, project: str, *, group: str | None) -> Any:
    """What the swept keys do to agreement on the validation part.

    Args:
        entity: Team or user that owns the project.
        project: As in ``logger.project``.
        group: The one sweep to show, as in ``logger.group``; ``None``: all runs of the project.

    Returns:
        A ``wandb_workspaces.workspaces.Workspace``, not saved.
    """
    import wandb_workspaces.workspaces as ws

    wide = ws.SectionLayoutSettings(columns=1, rows=1)
    columns = [_config_column(key) for key in (*SWEPT_NUMBERS, *SWEPT_WORDS)]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"aes: sweep {group}" if group else "aes: sweeps",
        sections=[
            ws.Section(name="All keys", panels=_all_keys(), is_open=True, layout_settings=wide),
            ws.Section(name="Key by key", panels=_key_by_key(), is_open=True),
            ws.Section(name="Trials", panels=_trials(), is_open=True),
        ],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group") == group] if group else "",
            order=[ws.Ordering(ws.Summary(QWK), ascending=False)],
            pinned_columns=["run:group", "run:state", *columns, f"summary:{QWK}", f"summary:{MAE}"],
        ),
    )


def _agreement() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(title="QWK of the total", y=[QWK]),
        wr.LinePlot(title="QWK by trait", metric_regex=QWK_OF_TRAITS),
        wr.LinePlot(title="Error of the total, points", y=[MAE, "val/rmse/total"]),
        wr.LinePlot(title="Correlation", y=["val/pearson/total", "val/spearman/total"]),
        wr.LinePlot(title="Answers that could be read", y=["val/parse_rate"], range_y=(0, 1)),
        wr.BarPlot(
            title="QWK beside graders that read nothing",
            metrics=[QWK, *(f"baseline/{name}/qwk" for name in BASELINES)],
        ),
        wr.BarPlot(
            title="Error beside graders that read nothing, points",
            metrics=[MAE, *(f"baseline/{name}/mae" for name in BASELINES)],
        ),
        wr.BarPlot(
            title="Error by what was done to the essay, points",
            metrics=[f"val/mae/operation/{kind}" for kind in OPERATIONS],
        ),
    ]


def _training() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(title="Loss, nats a token", y=[LOSS]),
        wr.LinePlot(title="Learning rate", y=["train/lr"]),
        wr.LinePlot(title="Tokens a second", y=["train/tokens_per_s"]),
        wr.LinePlot(title="Peak memory of rank 0, GiB", y=["train/peak_memory_gib"]),
        wr.LinePlot(title="Epoch", y=["train/epoch"]),
        wr.LinePlot(title="Time, s", y=["train/elapsed_s", "train/remaining_s"]),
    ]


def _samples() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.WeavePanelSummaryTable(table_name=SAMPLES)]


def _all_keys() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in SWEPT_WORDS]
    axes += [
        wr.ParallelCoordinatesPlotColumn(wr.Config(key), log=key == "optim.lr")
        for key in SWEPT_NUMBERS
    ]
    axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(QWK)))
    return [wr.ParallelCoordinatesPlot(title="Swept keys and QWK of the total", columns=axes)]


def _key_by_key() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    points = [
        wr.ScatterPlot(
            title=key, x=wr.Config(key), y=wr.SummaryMetric(QWK), log_x=key == "optim.lr"
        )
        for key in SWEPT_NUMBERS
    ]
    bars = [
        wr.BarPlot(title=key, metrics=[QWK], groupby=wr.Config(key), **_SPREAD)
        for key in SWEPT_WORDS
    ]
    return [wr.ParameterImportancePlot(with_respect_to=QWK), *points, *bars]


def _trials() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.BarPlot(title="QWK by sweep", metrics=[QWK], groupby="Group", **_SPREAD),
        wr.LinePlot(title="QWK of the total", y=[QWK]),
        wr.LinePlot(title="Loss, nats a token", y=[LOSS]),
        wr.RunComparer(diff_only="split"),
    ]


def _config_column(key: str) -> str:
    """A column of the run table; W&B keeps each top-level value of a config under ``value``."""
    top, _, rest = key.partition(".")
    return f"config:{top}.value.{rest}"
