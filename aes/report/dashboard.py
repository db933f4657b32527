"""``python -m aes.report.dashboard``: makes the W&B workspaces of ``dashboard_panels``.

``--dry-run`` prints the model that would be sent, as JSON, and needs neither network nor account.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from aes.report.dashboard_panels import runs_workspace, sweep_workspace


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one workspace and print its address, or its model.

    Args:
        arguments: Of the command line; ``None``: those of this process.

    Raises:
        SystemExit: With one sentence, if the extra is missing or W&B refuses.
    """
    options = _parser().parse_args(arguments)
    try:
        workspace = _build(options)
        shown = _as_json(workspace) if options.dry_run else _save(workspace)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    sys.stdout.write(f"{shown}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aes.report.dashboard",
        description="Make a W&B workspace of runs or sweeps.",
    )
    parser.add_argument("--entity", required=True, help="team or user that owns the project")
    parser.add_argument("--project", default="aes", help="as in logger.project (default: aes)")
    parser.add_argument("--kind", choices=("runs", "sweep"), default="runs", help="default: runs")
    parser.add_argument("--group", help="with --kind sweep: show this sweep alone")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the model as JSON and send nothing"
    )
    return parser


def _build(options: argparse.Namespace) -> Any:
    if options.group and options.kind != "sweep":
        raise ValueError("--group chooses a sweep; add --kind sweep or leave it out")
    try:
        if options.kind == "sweep":
            return sweep_workspace(options.entity, options.project, group=options.group)
        return runs_workspace(options.entity, options.project)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("wandb_workspaces"):
            raise
        raise ValueError(
            "dashboards need the package wandb-workspaces; install it with "
            "pip install 'aes[dashboards]'"
        ) from error


def _as_json(workspace: Any) -> str:
    """The model that W&B would get."""
    model = workspace._to_model().model_dump(by_alias=True, exclude_none=True)
    return json.dumps(model, ensure_ascii=False, indent=1)


def _save(workspace: Any) -> str:
    """Save as a new view; returns its address."""
    try:
        workspace.save()
    except Exception as error:  # what W&B raises here has no public class in common
        raise ValueError(
            f"W&B did not take the workspace ({error}); sign in with wandb login and check "
            "--entity and --project"
        ) from error
    return str(workspace.url)


if __name__ == "__main__":
    main()
