"""One self-contained HTML file: nothing is fetched, and every text from outside is escaped."""

import io
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from matplotlib.axes import Axes

from src.report import plots, words

MOST_SUBJECT_PLOTS = 60


def render_html(results: Mapping[str, Any]) -> str:
    """The report of one run from the content of its results.json."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {
        "SCORERS": words.SCORERS,
        "METRICS": words.METRICS,
        "figure": words.figure,
        "place": words.place,
        "percent": words.percent,
        "with_interval": words.with_interval,
        "percent_interval": words.percent_interval,
        "verdict_class": _verdict_class,
    }
    template = environment.from_string((resources.files("src.report") / "template.html").read_text(encoding="utf-8"))
    return template.render(
        r=results,
        cards=_cards(results),
        figures=_figures(results),
        config=yaml.safe_dump(dict(results["config"]), sort_keys=False, allow_unicode=True),
    )


def _cards(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The four numbers of the first screen, each for base and tuned, with the direction of the change."""
    variants, comparison = results["variants"], results["comparison"]
    change = comparison["scores"]["own_probability"]["all"] if comparison else {}
    cards = [_card("Accuracy", "accuracy", [v["accuracy"]["all"] for v in variants.values()], change.get("accuracy"))]
    for metric, title in (("auroc", "Knows when it is wrong (AUROC)"), ("ece", "Calibration error (ECE)")):
        numbers = [v["scores"]["own_probability"]["all"][metric] for v in variants.values()]
        cards.append(_card(title, metric, numbers, change.get(metric)))
    if all("probe" in v["scores"] for v in variants.values()):
        probe_change = comparison["scores"]["probe"]["all"].get("auroc") if comparison else None
        numbers = [v["scores"]["probe"]["all"]["auroc"] for v in variants.values()]
        cards.append(_card("Probe of hidden states (AUROC)", "auroc", numbers, probe_change))
    for card in cards:
        card["names"] = list(variants)
    return cards


def _card(title: str, metric: str, numbers: list[Any], change: Any) -> dict[str, Any]:
    show = words.percent_interval if metric == "accuracy" else words.with_interval
    note, mood = "", ""
    if metric == "ece" and numbers[0].get("calibrated_mean") is not None:
        floors = " → ".join(words.figure(n["calibrated_mean"]) for n in numbers)
        note = f"perfect calibration would score {floors}"
    if change and words.excludes_zero(change):
        better = (change["value"] > 0) == words.HIGHER_IS_BETTER[metric]
        mood = "better" if better else "worse"
    elif change:
        mood = "no clear change"
    return {"title": title, "values": [show(n) for n in numbers], "note": note, "mood": mood,
            "change": show(change, signed=True) if change else ""}  # fmt: skip


def _verdict_class(mood: str) -> str:
    return {"better": "better", "worse": "worse"}.get(mood, "same")


def _figures(results: Mapping[str, Any]) -> dict[str, list[Markup]]:
    variants = results["variants"]
    overview = []
    if any(v["layers"] for v in variants.values()):
        overview.append(_svg(plots.layer_curve(variants)))
    overview.append(
        _svg(plots.base_against_tuned(variants, "auroc", "Telling right from wrong (AUROC, higher is better)"))
    )
    overview.append(_svg(plots.base_against_tuned(variants, "ece", "Calibration error (ECE, lower is better)")))
    diagrams = [
        _svg(plots.reliability_diagram(bins, variant["scores"][scorer]["all"]["ece"],
             label=f"{name}: {words.SCORERS[scorer].lower()}", color=plots.COLORS[name]))
        for scorer in ("own_probability", "probe")
        for name, variant in variants.items()
        if (bins := variant["reliability"].get(scorer))
    ]  # fmt: skip
    subjects = words.subjects(next(iter(variants.values()))["scores"]["own_probability"])
    dots = [
        _svg(plots.subject_dots(variants, scorer))
        for scorer in ("probe", "own_probability", "text_only")
        if 0 < len(subjects) <= MOST_SUBJECT_PLOTS and any(scorer in v["scores"] for v in variants.values())
    ]
    return {"overview": overview, "reliability": diagrams, "subjects": dots}


def _svg(ax: Axes) -> Markup:
    """The figure as inline SVG; text stays text, ids are made unique by the figure's own content."""
    import matplotlib as mpl

    buffer = io.StringIO()
    title = ax.get_title().replace("\n", ", ")
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("The axes belong to no figure.")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Type", "Format")),
        )
    svg = re.sub(r"^.*?<svg ", "<svg ", buffer.getvalue(), count=1, flags=re.DOTALL)
    label = jinja2.utils.htmlsafe_json_dumps(title)
    return Markup(svg.replace("<svg ", f"<svg role='img' aria-label={label} ", 1))  # noqa: S704 (made by matplotlib)
