"""A run in a notebook: the verdict and the main numbers, as a fragment of HTML."""

from collections.abc import Mapping
from typing import Any

import jinja2

from src import storage
from src.report import words

_TEMPLATE = """\
<div>
<p><strong>{{ r.name }}</strong>: {{ r.data.n }} questions, {{ r.variants.base.splits.test }} of them for test;
 model {{ r.model.name }}</p>
<p style="font-size:1.15em"><strong>{{ r.verdict[0] }}</strong></p>
{% if r.verdict[1:] %}<ul>{% for sentence in r.verdict[1:] %}<li>{{ sentence }}</li>{% endfor %}</ul>{% endif %}
<table>
<thead><tr><th>model</th><th>accuracy</th><th>confidence</th><th>AUROC</th>
<th>Brier</th><th>NLL</th><th>ECE</th><th>if calibrated</th></tr></thead>
<tbody>
{% for name, variant in r.variants.items() %}{% for scorer, parts in variant.scores.items() if scorer in SHORT %}
<tr><td>{{ name if loop.first }}</td>
<td>{{ percent_interval(variant.accuracy.all) if loop.first }}</td>
<td>{{ SHORT[scorer] }}</td><td>{{ with_interval(parts.all.auroc) }}</td>
<td>{{ figure(parts.all.brier.value) if parts.all.brier }}</td>
<td>{{ figure(parts.all.nll.value) if parts.all.nll }}</td>
<td>{{ with_interval(parts.all.ece) if parts.all.ece }}</td><td>{{ floor(parts.all.ece) if parts.all.ece }}</td></tr>
{% endfor %}{% endfor %}
</tbody></table>
<ul>
{% for name, variant in r.variants.items() %}{% for line in decisions(variant) %}
<li>{{ name }}: {{ line }}</li>
{% endfor %}{% endfor %}
</ul>
<p>{% if link %}<a href="{{ link }}">{{ report }}</a>{% else %}{{ report }}{% endif %}</p>
</div>
"""


def render_summary(results: Mapping[str, Any], report: str) -> str:
    """What a notebook shows of a run, with a link to the whole report; every text from outside is escaped.

    A name beyond this machine is no link. One that begins with "." or "/" is a path, whatever comes next: without that,
    `javascript:` would be a folder that runs.
    """
    link = None if storage.is_url(report) else report if report.startswith("/") else f"./{report}"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    names = ("SHORT", "decisions", "figure", "floor", "percent_interval", "with_interval")
    environment.globals |= {name: getattr(words, name) for name in names}
    return environment.from_string(_TEMPLATE).render(r=results, report=report, link=link)
