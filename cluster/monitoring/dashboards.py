"""Grafana dashboards as JSON, made from the list of metrics; and Ray's own, which Ray makes.

The JSON model: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/ (24
columns wide, panels placed by gridPos). The data source is a variable, so a dashboard fits any Grafana that it is
imported into.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass

from robust.monitoring.metrics import BY_NAME, METRICS, UNITS, Metric

COLUMNS = 24
WIDTH, HEIGHT = 8, 7
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HERE = 'run=~"$run"'
RATE_UNITS = {"images": "images/s", "crops": "crops/s", "videos": "videos/s", "faces": "faces/s", "seconds": "none"}
"""Grafana's units of a counter's rate; seconds a second are trials or processes at work."""
RARE = ("events", "trials")
"""Counters of these are shown as sums: their rate would be nothing but zeros."""


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str  # Grafana's
    queries: tuple[tuple[str, str], ...]  # (PromQL, legend)
    text: str
    most: float | None = None  # top of the axis


def panel_of(metric: Metric) -> Panel:
    """A gauge as it is, a counter as its rate a second, rare events as their sum."""
    labels = ", ".join(metric.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    series = f"{metric.series}{{{HERE}}}"
    title = metric.name.replace("_", " ")
    if metric.kind == "gauge":
        unit = UNITS[metric.unit]
        return Panel(
            title,
            unit,
            ((f"max by ({labels}) ({series})", legend),),
            metric.help,
            1.0 if metric.unit in ("auc", "share") else None,
        )
    if metric.unit in RARE:
        return Panel(title, "short", ((f"sum by ({labels}) ({series})", legend),), metric.help)
    return Panel(
        f"{title} a second",
        RATE_UNITS[metric.unit],
        ((f"sum by ({labels}) (rate({series}[$__rate_interval]))", legend),),
        metric.help,
    )


def _trial_cost() -> Panel:
    seconds, trials = (f"sum by (run) ({BY_NAME[name].series}{{{HERE}}})" for name in ("tune_seconds", "tune_trials"))
    return Panel(
        "cost of a trial",
        "s",
        ((f"{seconds} / {trials}", "{{run}}"),),
        "Seconds of training and validating, a trial that has begun.",
    )


def _progress() -> Panel:
    done, asked = (f"max by (run, stage) ({BY_NAME[name].series}{{{HERE}}})" for name in ("progress", "progress_asked"))
    return Panel(
        "share done", "percentunit", ((f"{done} / ({asked} > 0)", "{{run}} {{stage}}"),), "Of the running stage.", 1.0
    )


RAY = (
    Panel("CPU", "percent", (("avg by (instance) (ray_node_cpu_utilization)", "{{instance}}"),), "Of each node.", 100),
    Panel(
        "memory",
        "percentunit",
        (("max by (instance) (ray_node_mem_used / ray_node_mem_total)", "{{instance}}"),),
        "Of each node.",
        1.0,
    ),
    Panel(
        "GPU",
        "percent",
        (("avg by (instance, GpuIndex) (ray_node_gpus_utilization)", "{{instance}} {{GpuIndex}}"),),
        "Of each GPU.",
        100,
    ),
    Panel(
        "disk",
        "percent",
        (("max by (instance) (ray_node_disk_utilization_percentage)", "{{instance}}"),),
        "Used, of each node.",
        100,
    ),
    Panel(
        "object store",
        "bytes",
        (("sum by (instance) (ray_object_store_used_memory)", "{{instance}}"),),
        "In use, of each node.",
    ),
    Panel(
        "tasks",
        "short",
        (('sum by (State) (ray_tasks{State!~"FINISHED|FAILED"})', "{{State}}"),),
        "By state; those that wait for resources are PENDING_NODE_ASSIGNMENT.",
    ),
    Panel("actors", "short", (("sum by (State) (ray_actors)", "{{State}}"),), "By state."),
    Panel(
        "nodes",
        "short",
        (('count(up{job="ray"} == 1)', "watched"), ('count(up{job="ray"} == 0) or vector(0)', "not answering")),
        "Addresses that Prometheus reads; a head has up to three.",
    ),
    Panel(
        "workers that died",
        "short",
        (("sum(ray_node_manager_unexpected_worker_failure_total)", "unexpectedly"),),
        "Killed, crashed or out of memory.",
    ),
)


def rows() -> list[tuple[str, list[Panel]]]:
    """The dashboard's rows: all of our metrics, grouped by the first word of their names, and Ray's."""
    groups = {
        "Now": ("running", "progress", "failures", "storage"),
        "Training": ("train",),
        "Validation": ("validation",),
        "Extraction": ("extract",),
        "Detection": ("detect",),
        "Search": ("tune",),
        "Evaluation": ("evaluate",),
    }
    extra = {"Now": [_progress()], "Search": [_trial_cost()]}
    made = [
        (title, extra.get(title, []) + [panel_of(m) for m in METRICS if m.name.split("_")[0] in words])
        for title, words in groups.items()
    ]
    return [*made, ("Ray", list(RAY))]


def dashboard() -> dict:
    """Our dashboard in Grafana's JSON model."""
    panels, y = [], 0
    for title, row in rows():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
        )
        y += 1
        for number, panel in enumerate(row):
            across, down = number % (COLUMNS // WIDTH), number // (COLUMNS // WIDTH)
            place = {"x": across * WIDTH, "y": y + down * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(panel, len(panels) + 1, place))
        y += -(-len(row) // (COLUMNS // WIDTH)) * HEIGHT
    return {
        "uid": "robust-deepfake",
        "title": "Robust deepfake detection",
        "tags": ["ray"],
        "schemaVersion": 36,
        "version": 1,
        "editable": True,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "10s",
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "refresh": 1,
                },
                {
                    "name": "run",
                    "label": "run",
                    "type": "query",
                    "datasource": SOURCE,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "refresh": 2,
                    "sort": 1,
                    "query": {"query": f"label_values({BY_NAME['running'].series}, run)", "refId": "run"},
                    "definition": f"label_values({BY_NAME['running'].series}, run)",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": panels,
    }


def _panel(panel: Panel, number: int, place: dict) -> dict:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expr, "legendFormat": legend, "range": True}
        for index, (expr, legend) in enumerate(panel.queries)
    ]
    bounds = {"min": 0} | ({} if panel.most is None else {"max": panel.most})
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                **bounds,
                "custom": {"lineWidth": 2, "fillOpacity": 5, "showPoints": "auto"},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def rays_own() -> dict[str, dict]:
    """Ray's dashboards of the cluster, of Data and of Train, by file name, as the installed Ray makes them.

    Its factory is not public; it is what Ray's own dashboard process calls.
    """
    from ray.dashboard.modules.metrics import grafana_dashboard_factory as factory

    made = {
        "ray-cluster": factory.generate_default_grafana_dashboard,
        "ray-data": factory.generate_data_grafana_dashboard,
        "ray-train": factory.generate_train_grafana_dashboard,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        return {name: json.loads(make()[0]) for name, make in made.items()}


def queries_of(node) -> list[str]:
    """Every PromQL expression of a dashboard, rows within rows included."""
    if isinstance(node, dict):
        own = [node["expr"]] if isinstance(node.get("expr"), str) and node["expr"] else []
        return own + [query for value in node.values() for query in queries_of(value)]
    return [query for value in node for query in queries_of(value)] if isinstance(node, list) else []
