"""What a search found: `frontier.json` and a page with plots that needs no network."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from slimctr.frontier.variants import BUCKETS
from slimctr.training.run import write_whole

JSON_FILE, PAGE_FILE = "frontier.json", "report.html"
PLOTS = (("AUC", "auc"), ("logloss", "logloss"), ("calibration", "calibration"))
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 22rem }
tr.chosen { background: #e8f4e8 } code { font-size: .85em }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
"""


def write_report(folder: Path, found: Mapping[str, Any]) -> None:
    """Write `frontier.json` and `report.html`; docs/frontier.md describes the keys of `found`."""
    write_whole(folder / JSON_FILE, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(folder / PAGE_FILE, page(found).encode())


def page(found: Mapping[str, Any]) -> str:
    """Return the page, plotly itself included."""
    original, variants, front = found["original"], found["variants"], found["front"]
    chosen = found["recommended"]
    told = (
        f"No variant is within <code>{html.escape(found['budget'])}</code>."
        if chosen is None
        else f"The smallest variant within <code>{html.escape(found['budget'])}</code> is "
        f"<code>{html.escape(label(_by_key(variants, chosen)))}</code>: "
        f"{_ratio(original, _by_key(variants, chosen)):.1f} times smaller than the original."
    )
    by_key = [original, *(_by_key(variants, key) for key in front)]
    return "\n".join(
        [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>slimctr frontier</title>",
            f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>",
            f"<h1>Frontier of {html.escape(found['run'])}</h1><p>{told} {found['trials']} trials, "
            f"seed {found['seed']}, {html.escape(found['machine'])}, {found['date']}. "
            "Chosen on validation rows, on which calibrated variants were also fitted; test rows were scored once.</p>",
            _div(quality_plots(original, variants, front, chosen), "quality"),
            "<h2>On the frontier</h2>",
            table(original, by_key[1:], chosen),
            "<h2>Where the error is</h2><p>Change of the logloss against the original, on validation rows in thirds by "
            "the training count of their rarest value.</p>",
            _div(bucket_plot(original, by_key[1:]), "buckets"),
            "</body></html>",
        ]
    )


def quality_plots(
    original: Mapping[str, Any],
    variants: Sequence[Mapping[str, Any]],
    front: Sequence[str],
    chosen: str | None,
) -> go.Figure:
    """Artifact bytes against AUC, logloss, calibration (validation) and time per row at batch 32, where measured."""
    titles = [*(name for name, _ in PLOTS), "microseconds per call, 32 rows"]
    figure = make_subplots(
        rows=2, cols=2, subplot_titles=titles, horizontal_spacing=0.1, vertical_spacing=0.14
    )
    groups = (
        ("tried", [v for v in variants if v["key"] not in front], "#b5b5b5", "circle"),
        ("frontier", [v for v in variants if v["key"] in front and v["key"] != chosen], "#3366cc", "circle"),
        ("recommended", [v for v in variants if v["key"] == chosen], "#2a9d3c", "star"),
        ("original", [original], "#cc3333", "diamond"),
    )
    for place in range(4):
        for name, members, color, symbol in groups:
            timed = [v for v in members if place < 3 or "speed" in v]
            y = [
                v["valid"][PLOTS[place][1]] if place < 3 else v["speed"]["microseconds"]["32"] for v in timed
            ]
            trace = go.Scatter(
                x=[v["bytes"]["artifact"] / 1e3 for v in timed],
                y=y,
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=place == 0,
                marker={"color": color, "symbol": symbol, "size": 13 if symbol == "star" else 9},
                text=[hover(v) for v in timed],
                hovertemplate="%{text}<br>%{y:.5f}, %{x:.0f} KB<extra></extra>",
            )
            figure.add_trace(trace, row=place // 2 + 1, col=place % 2 + 1)
    figure.update_xaxes(type="log", title_text="artifact, KB")
    figure.update_layout(height=820, margin={"t": 60, "b": 40}, template="plotly_white")
    return figure


def bucket_plot(original: Mapping[str, Any], front: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Bars of the change of the logloss in tail, torso and head."""
    figure = go.Figure()
    for bucket in BUCKETS:
        changes = [v["buckets"][bucket]["logloss"] - original["buckets"][bucket]["logloss"] for v in front]
        names = [f"{v['bytes']['artifact'] / 1e3:.0f} KB" for v in front]
        figure.add_trace(go.Bar(name=bucket, x=names, y=changes, hovertext=[hover(v) for v in front]))
    figure.update_layout(height=420, template="plotly_white", yaxis_title="Δ logloss", margin={"t": 20})
    return figure


def table(original: Mapping[str, Any], front: Sequence[Mapping[str, Any]], chosen: str | None) -> str:
    """The frontier as a table, the original first."""
    head = (
        "variant",
        *("payload KB", "artifact KB", "ratio", "resident MB"),
        *("valid AUC", "test AUC", "test logloss", "calibration"),
        *("speed ×1", "×32", "×512"),
    )
    rows = []
    for variant in (original, *front):
        speeds = [f"{variant['speed']['speed_ratio'][size]:.2f}" for size in ("1", "32", "512")]
        cells = (
            f"<code>{html.escape(label(variant))}</code>",
            f"{variant['bytes']['payload'] / 1e3:,.0f}",
            f"{variant['bytes']['artifact'] / 1e3:,.0f}",
            f"{_ratio(original, variant):.1f}x",
            f"{variant['bytes']['resident'] / 1e6:.1f}",
            f"{variant['valid']['auc']:.5f}",
            f"{variant['test']['auc']:.5f}",
            f"{variant['test']['logloss']:.4f}",
            f"{variant['test']['calibration']:.3f}",
            *speeds,
        )
        mark = " class='chosen'" if variant["key"] == chosen else ""
        rows.append(f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{''.join(rows)}</table>"


def label(variant: Mapping[str, Any]) -> str:
    """The chain of a variant as a person would type it."""
    if not variant["method"]:
        return variant["key"]
    settings = [
        f"{method}.{name}={value:.4g}" if isinstance(value, float) else f"{method}.{name}={value}"
        for method, group in variant["settings"].items()
        for name, value in group.items()
    ]
    return " ".join([variant["method"], *settings])


def hover(variant: Mapping[str, Any]) -> str:
    """The chain and its settings on lines of their own."""
    return "<br>".join(html.escape(word) for word in label(variant).split(" "))


def _by_key(variants: Sequence[Mapping[str, Any]], key: str) -> Mapping[str, Any]:
    return next(variant for variant in variants if variant["key"] == key)


def _ratio(original: Mapping[str, Any], variant: Mapping[str, Any]) -> float:
    return original["bytes"]["artifact"] / variant["bytes"]["artifact"]


def _div(figure: go.Figure, name: str) -> str:
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=name)
