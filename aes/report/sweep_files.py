"""A sweep -> ``summary.csv``, ``summary.png`` and ``summary.html`` in its folder.

Written after every trial, so that a sweep that is stopped has them too.
"""

from __future__ import annotations

import base64
import csv
import io

from aes.files import write_atomically
from aes.report.evaluation_drawing import to_png, to_svg
from aes.report.evaluation_html import Html, bilingual, document, element, table
from aes.report.sweep import Sweep, Trial
from aes.report.sweep_plot import draw_sweep
from aes.report.workbook import harmless

_STATES = {"finished": "完成", "failed": "失败", "interrupted": "中断", "running": "进行中"}
_IN_HTML = ("val/pearson/total", "val/mae/total", "val/rmse/total", "val/parse_rate")


def write_sweep(sweep: Sweep) -> None:
    """Write the summary; a figure only where there is something to draw."""
    write_atomically(sweep.folder / "summary.csv", _csv(sweep).encode())
    figure = draw_sweep(sweep)
    if figure is not None:
        write_atomically(sweep.folder / "summary.png", to_png(figure))
    drawing = None if figure is None else to_svg(figure)
    html = _html(sweep, drawing).encode("utf-8", errors="replace")
    write_atomically(sweep.folder / "summary.html", html)


def _csv(sweep: Sweep) -> str:
    """A row a trial, every validation metric included; empty where there is no value."""
    metrics = sweep.metric_names()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    objective = sweep.monitor or "objective"
    head = ["trial", "state", "best", *sweep.varied, objective, *metrics]
    writer.writerow([*head, "num_val_essays", "seconds", "error"])
    for one in sweep.trials:
        values = [one.objective, *(one.metrics.get(name) for name in metrics)]
        varied = [harmless(one.varied.get(key, "")) for key in sweep.varied]
        cells = ["" if value is None else repr(value) for value in values]
        best = "yes" if one is sweep.best else ""
        last = [one.num_essays or "", one.seconds, harmless(one.error)]
        writer.writerow([one.name, one.state, best, *varied, *cells, *last])
    return text.getvalue()


def _html(sweep: Sweep, drawing: bytes | None) -> str:
    parts = [
        bilingual("h1", "参数搜索", "Sweep"),
        element("p", element("code", sweep.title)),
        element("p", _progress(sweep), class_="say"),
        element("p", _caution(sweep), class_="warning"),
        bilingual("h2", "各次训练", "Trials", id="trials"),
        _table(sweep),
        *_errors(sweep),
    ]
    if drawing is not None:
        parts += [bilingual("h2", "图", "Figure", id="figure"), _figure(sweep, drawing)]
    parts.append(element("footer", "由 train.py 生成；不含作文内容。"))
    return document("参数搜索", "zh-CN", *parts)


def _progress(sweep: Sweep) -> str:
    num = {state: sum(one.state == state for one in sweep.trials) for state in _STATES}
    said = f"共 {sweep.num_trials} 次训练，完成 {num['finished']} 次"
    said += f"，失败 {num['failed']} 次" if num["failed"] else ""
    if sweep.best is None:
        return f"{said}；没有可比较的验证结果。"
    best = sweep.best
    assert best.objective is not None
    return (
        f"{said}。{sweep.monitor} 最好的是第 {best.name} 号（{best.label}）：{best.objective:.3f}。"
    )


def _caution(sweep: Sweep) -> str:
    """How far differences count, in the reader's language."""
    chosen = "选出的最好值还会因挑选而偏好，请用 evaluate.py 在测试集上再评一次。"
    if sweep.noise is None:
        return f"各次训练之间的差别含有偶然因素；{chosen}"
    said = (
        f"每次训练只用 {sweep.num_essays} 篇作文验证，单个 QWK 的不确定范围约为 "
        f"±{sweep.noise:.2f}（按篇数估算的经验值，不是检验）；"
    )
    if len(sweep.measured) < 2:
        return f"{said}{chosen}"
    if sweep.spread <= sweep.noise:
        return (
            f"{said}各次训练最多相差 {sweep.spread:.3f}，在此范围之内，不能据此分出高下。{chosen}"
        )
    return f"{said}小于它的差别不能说明问题。{chosen}"


def _table(sweep: Sweep) -> Html:
    shown = [name for name in _IN_HTML if name in sweep.metric_names()]
    names = [name.removeprefix("val/") for name in shown]
    head = ["序号", *sweep.varied, sweep.monitor, *names, "验证篇数", "分钟", "状态"]
    rows = [_row(sweep, one, shown) for one in sweep.trials]
    return table(head, rows, label="Trials", text_columns=[len(head) - 1])


def _row(sweep: Sweep, one: Trial, shown: list[str]) -> list[str]:
    numbers = [_number(one.objective), *(_number(one.metrics.get(name)) for name in shown)]
    state = _STATES[one.state]
    if one is sweep.best:
        state = element("span", "最好", class_="mark passed")
    elif one.state == "failed":
        state = element("span", state, class_="mark failed")
    num_essays = "–" if one.num_essays is None else str(one.num_essays)
    varied = [one.shown(key) for key in sweep.varied]
    return [one.name, *varied, *numbers, num_essays, f"{one.seconds / 60:.1f}", state]


def _errors(sweep: Sweep) -> list[Html]:
    failed = [one for one in sweep.trials if one.error]
    if not failed:
        return []
    items = [element("li", f"第 {one.name} 号（{one.label}）：{one.error}") for one in failed]
    return [bilingual("h3", "失败原因", "Errors"), element("ul", *items, class_="plain")]


def _figure(sweep: Sweep, drawing: bytes) -> Html:
    data = base64.b64encode(drawing).decode("ascii")
    alt = "; ".join(f"{one.label}: {_number(one.objective)}" for one in sweep.measured)
    image = element("img", alt=alt, src=f"data:image/svg+xml;base64,{data}")
    caption = (
        f"每点是一次训练在验证集上的 {sweep.monitor}，橙色为最好；竖线是上面所说的不确定范围。"
    )
    return element("figure", image, element("figcaption", caption))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
