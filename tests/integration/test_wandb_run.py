"""What an offline W&B run of ``train.py`` holds, read by W&B's own reader, and what it does not."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from aes.corpus.sample_corpus import load_sample
from aes.report.dashboard_panels import runs_workspace, sweep_workspace
from aes.report.samples import COLUMNS

pytestmark = pytest.mark.command

ROOT = Path(__file__).parents[2]
NUM_STEPS, NUM_SAMPLES = 3, 2
PLACES = ("HOME", "TMPDIR", "MPLCONFIGDIR", "cwd")


@dataclass(frozen=True)
class OfflineRun:
    """A finished run, all records of its W&B folder, and what stood around it afterwards.

    Attributes:
        run_dir: The run directory.
        wandb_dir: The one offline folder in it.
        records: As ``wandb leet inspect --json`` gives them.
        summary: As ``wandb leet inspect --summary --json`` gives it.
        left: Files found in each of ``PLACES``, which were empty before.
        num_connections: How often W&B's server was called.
    """

    run_dir: Path
    wandb_dir: Path
    records: list[dict[str, Any]]
    summary: dict[str, Any]
    left: dict[str, list[Path]]
    num_connections: int

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The content of all records of a kind, in order."""
        return [record[kind] for record in self.records if record["type"] == kind]

    def history(self, key: str) -> dict[int, Any]:
        """Values of a metric by W&B's step."""
        rows = [row["item"] for row in self.of_kind("history")]
        return {row["_step"]: row[key] for row in rows if key in row}


@pytest.fixture(scope="module")
def offline_run(session_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> OfflineRun:
    """One training in a process of its own, with an empty home and a server that counts calls."""
    folder = tmp_path_factory.mktemp("wandb")
    run_dir = folder / "run"
    places = {name: folder / name for name in PLACES}
    for place in places.values():
        place.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "XDG_"))}
        environment |= {k: str(v) for k, v in places.items() if k != "cwd"}
        environment |= {
            "AES_CACHE": str(session_cache),
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
        }
        subprocess.run(
            [
                sys.executable,
                str(ROOT / "train.py"),
                f"trainer.max_steps={NUM_STEPS}",
                "trainer.log_every_n_steps=1",
                "data.copies=2",
                "hardware.num_workers=0",
                f"callbacks.sample_table.num_examples={NUM_SAMPLES}",
                "decoding.max_feedback_tokens=8",
                "logger.project=marks",
                "logger.name=first",
                "logger.group=tries",
                "logger.tags=[nano,quick]",
                f"run_dir={run_dir}",
            ],
            cwd=places["cwd"],
            env=environment,
            check=True,
            capture_output=True,
        )
        num_connections = count_calls(server)
    (wandb_dir,) = (run_dir / "wandb").glob("offline-run-*")
    return OfflineRun(
        run_dir=run_dir,
        wandb_dir=wandb_dir,
        records=[json.loads(line) for line in inspect(wandb_dir).splitlines()],
        summary=json.loads(inspect(wandb_dir, "--summary")),
        left={name: sorted(place.rglob("*")) for name, place in places.items()},
        num_connections=num_connections,
    )


def inspect(wandb_dir: Path, *flags: str) -> str:
    """W&B's own reader, which needs no server."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *flags, "--json", str(wandb_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def count_calls(server: socket.socket) -> int:
    """Connections that wait to be answered."""
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.fixture(scope="module")
def logged(offline_run: OfflineRun) -> list[dict[str, Any]]:
    """``metrics.jsonl``."""
    lines = (offline_run.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_run_has_the_names_that_were_asked_for(offline_run: OfflineRun) -> None:
    found = {k: offline_run.summary[k] for k in ("project", "name", "tags", "state", "exit_code")}
    assert found == {
        "project": "marks",
        "name": "first",
        "tags": ["nano", "quick"],
        "state": "finished",
        "exit_code": 0,
    }
    (run,) = offline_run.of_kind("run")
    assert run["run_group"] == "tries"


def test_config_is_the_resolved_one(offline_run: OfflineRun) -> None:
    text = (offline_run.run_dir / "config.yaml").read_text(encoding="utf-8")
    shown = {k: v for k, v in offline_run.summary["config"].items() if k != "_wandb"}
    assert shown == yaml.safe_load(text)["config"]
    assert shown["logger"]["group"] == "tries"
    assert not re.search(r"\$\{", json.dumps(shown)), "an interpolation was not resolved"


def test_training_curves_are_metrics_jsonl_by_optimiser_step(
    offline_run: OfflineRun, logged: list[dict[str, Any]]
) -> None:
    lines = [line for line in logged if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    for name in lines[0].keys() - {"step"}:
        expected = {line["step"]: line[name] for line in lines}
        assert offline_run.history(f"train/{name}") == expected, name
    assert all(lr > 0 for lr in offline_run.history("train/lr").values())


def test_validation_stands_at_the_step_it_belongs_to(
    offline_run: OfflineRun, logged: list[dict[str, Any]]
) -> None:
    (line,) = [line for line in logged if "val/qwk/total" in line]
    assert line["step"] == NUM_STEPS
    for name, value in line.items():
        if name.startswith("val/") and value is not None:
            assert offline_run.history(name) == {NUM_STEPS: pytest.approx(value)}, name


def test_summary_is_metrics_json(offline_run: OfflineRun) -> None:
    metrics = json.loads((offline_run.run_dir / "metrics.json").read_text(encoding="utf-8"))
    finite = {k: v for k, v in metrics.items() if v is not None and isfinite(v)}
    assert {"val/qwk/total", "val/mae/operation/cut", "baseline/mean/mae"} <= finite.keys()
    assert {k: offline_run.summary["summary"].get(k) for k in finite} == pytest.approx(finite)


def test_table_of_samples_is_whole(offline_run: OfflineRun) -> None:
    place = offline_run.summary["summary"]["val/samples"]
    assert (place["nrows"], place["ncols"]) == (NUM_SAMPLES, len(COLUMNS))
    waiting = files_of_artifacts(offline_run)
    assert all(path.is_relative_to(offline_run.run_dir) for path in waiting.values())
    table = json.loads(waiting["val/samples.table.json"].read_text(encoding="utf-8"))
    assert table["columns"] == list(COLUMNS)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table["data"]]
    assert len(rows) == NUM_SAMPLES
    assert all(row["gold answer"].startswith("{") and row["predicted answer"] for row in rows)
    html = (offline_run.run_dir / "samples.html").read_text(encoding="utf-8")
    for row in rows:
        assert row["id"] in html
        with Image.open(waiting[row["page"]["path"]]) as page:
            assert page.size == (row["page"]["width"], row["page"]["height"])


def files_of_artifacts(run: OfflineRun) -> dict[str, Path]:
    """Where tables and their images wait to be sent, by their names in W&B."""
    return {
        entry["path"]: Path(entry["local_path"])
        for artifact in run.of_kind("artifact")
        for entry in artifact["manifest"]["contents"]
    }


def test_nothing_is_written_beside_the_run_directory(offline_run: OfflineRun) -> None:
    assert offline_run.left["HOME"] == offline_run.left["cwd"] == []
    # Other libraries keep lists of fonts and compiled code in theirs.
    names = [path.name for name in ("TMPDIR", "MPLCONFIGDIR") for path in offline_run.left[name]]
    assert not [name for name in names if not name.startswith(("fontlist", "torchinductor"))]


def test_offline_calls_no_server(offline_run: OfflineRun) -> None:
    assert offline_run.num_connections == 0


def test_essays_stand_in_the_table_of_samples_alone(offline_run: OfflineRun) -> None:
    """Neither config nor terminal, names or metadata hold a sentence of a pupil's."""
    held = json.dumps(offline_run.records, ensure_ascii=False)
    sentences = [part for essay in load_sample() for part in essay.text.split("。") if part]
    assert len(sentences) > 100
    assert not [s for s in sentences if len(s) >= 10 and s.strip() in held]
    files = {
        path.relative_to(offline_run.wandb_dir / "files").parts[0]: path
        for path in offline_run.wandb_dir.glob("files/**/*")
        if path.is_file()
    }
    assert files.keys() == {"requirements.txt", "output.log", "media"}
    del files["media"]
    for path in files.values():
        written = path.read_text(encoding="utf-8")
        assert not [s for s in sentences if len(s) >= 10 and s.strip() in written]


def test_metadata_holds_what_docs_dashboards_says(offline_run: OfflineRun) -> None:
    told: set[str] = set()
    for part in offline_run.of_kind("environment"):
        told |= part.keys()
    machine = {"cpu", "cpu_count", "cpu_count_logical", "disk", "memory", "os", "host"}
    process = {"args", "program", "code_path", "code_path_local", "executable", "python", "root"}
    ours = {"started_at", "writer_id"}
    # Cards are told where there are any.
    assert told - {"gpu_nvidia", "gpu_count", "gpu", "cuda_version", "slurm"} <= (
        machine | process | ours
    )


@pytest.mark.parametrize("kind", ["runs", "sweep"])
def test_dashboards_show_what_is_logged(kind: str, offline_run: OfflineRun) -> None:
    pytest.importorskip("wandb_workspaces", reason="the extra aes[dashboards] is not installed")
    make: dict[str, Callable[[], Any]] = {
        "runs": lambda: runs_workspace("school", "marks"),
        "sweep": lambda: sweep_workspace("school", "marks", group=None),
    }
    view = make[kind]()._to_model().model_dump(by_alias=True, exclude_none=True)
    section = view["spec"]["section"]
    panels = [p for s in section["panelBankConfig"]["sections"] for p in s["panels"]]
    axes, metrics, patterns, config = names_in(panels)
    columns = section["runSets"][0]["runFeed"]["columnOrder"]
    metrics |= {c.removeprefix("summary:") for c in columns if c.startswith("summary:")}
    config |= {c for c in columns if c.startswith("config:")}

    rows = {name for row in offline_run.of_kind("history") for name in row["item"]}
    there = rows | set(offline_run.summary["summary"])
    assert metrics, "no panel was read"
    assert metrics - there == set()
    assert axes == {"_step"}
    traits = offline_run.summary["config"]["rubric"]["traits"]
    for pattern in patterns:
        matched = {name for name in there if re.search(pattern, name)}
        assert matched == {f"val/qwk/{name}" for name in ("total", *traits)}
    for path in config:
        top, value, *rest = path.removeprefix("config:").split(".")
        assert value == "value"
        found = offline_run.summary["config"][top]
        for part in rest:
            found = found[part]
        assert not isinstance(found, dict), path


def names_in(panels: list[dict[str, Any]]) -> tuple[set[str], set[str], set[str], set[str]]:
    """X-axes, metrics, patterns of metrics and config keys that panels name."""
    axes, metrics, patterns, config = set(), set(), set(), set()
    for panel in panels:
        match panel["viewType"], panel["config"]:
            case "Run History Line Plot", plot:
                axes.add(plot["xAxis"])
                metrics |= set(plot.get("metrics", ()))
                patterns |= {plot["metricRegex"]} if "metricRegex" in plot else set()
            case "Bar Chart", plot:
                metrics |= set(plot["metrics"])
                group = plot.get("groupBy", "group")
                config |= {f"config:{group}"} if group != "group" else set()
            case "Scatter Plot", plot:
                config.add(plot["xAxis"])
                metrics.add(plot["yAxis"].removeprefix("summary:"))
            case "Parallel Coordinates Plot", plot:
                names = {column["accessor"] for column in plot["columns"]}
                config |= {name for name in names if name.startswith("config:")}
                metrics |= {n.removeprefix("summary:") for n in names if n.startswith("summary:")}
            case "Parameter Importance", plot:
                metrics.add(plot["targetKey"])
            case "Weave", plot:
                metrics |= set(re.findall(r"val/\w+", json.dumps(plot)))
            case "Run Comparer", _:
                pass
            case kind, _:
                raise AssertionError(f"{kind} is read by no test")
    return axes, metrics, patterns, config
