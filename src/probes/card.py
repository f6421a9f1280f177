"""A probe's README.md: what it is, what it is good for and how to use it, for people and for the hub."""

import json

from src.probes.header import Header

_USE = """\
With `ConfidenceModel` of llm-confidence-probing:

```python
model = ConfidenceModel.from_pretrained("<this folder or repository>", {model})
answer = model.ask("{question}")
answer.text, answer.confidence
```"""
_FAMILIES = {
    "logistic": "An L2 logistic regression",
    "mean_difference": "The difference of the class means",
    "mlp": "A small network with one hidden layer, of 64 units,",
    "attention": "An L2 logistic regression, attending to the tokens that fit a learnt query,",
}
_LIMITS = """\
It holds for the model named above and for questions like those it was fitted on. On other subjects and data sets a
probe is often worse, and a fine-tuned model may need another one: `confprobe check` finds out. Loading it on another
model, layer or width is an error."""


def model_card(header: Header) -> str:
    """Markdown with the hub's metadata; what comes from elsewhere is quoted, so that it cannot become markup."""
    origin = header.origin
    sections = [
        _metadata(header),
        "# A probe of confidence",
        f"Reads P(the model's answer is correct) from the hidden states of {_code(str(origin.model))}: after "
        f"{_code(origin.layer)}, at {_code(origin.position)}. {_FAMILIES[origin.family]} of standardised states: "
        "arrays in float64, no code.",
        "## What it was measured at",
        _metrics(origin.metrics) or "Nothing was recorded.",
        "## Use",
        _USE.format(model=json.dumps(origin.model.name), question="What is 6 + 7?"),
        "## Limits",
        _LIMITS,
        "## Where it comes from",
        _facts(header),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(header: Header) -> str:
    """YAML; a JSON text is one of its scalars."""
    lines = ["---", "library_name: llm-confidence-probing", "tags:", "- calibration", "- probing"]
    if "/" in header.origin.model.name:
        lines.append(f"base_model: {json.dumps(header.origin.model.name)}")
    return "\n".join([*lines, "---"])


def _metrics(metrics: dict[str, float | None]) -> str:
    if not metrics:
        return ""
    rows = [
        f"| {_code(name)} | {'undefined' if value is None else f'{value:.4g}'} |" for name, value in metrics.items()
    ]
    return "\n".join(["On its own test questions, before recalibration:", "", "| metric | value |", "|---|---|", *rows])


def _facts(header: Header) -> str:
    origin, recalibration = header.origin, header.recalibration
    facts = {
        "model": origin.model.name,
        "revision": origin.model.revision,
        "weights": origin.model.weights,
        "adapter": origin.model.adapter,
        "dtype": origin.model.dtype,
        "quantisation": origin.model.quantization,
        "data": origin.data,
        "training questions (SHA-256 of their ids)": origin.training_ids,
        "C": origin.C,
        "recalibration": recalibration and recalibration["method"],
        "thresholds with a guarantee, for risks": ", ".join(f"{one.risk:g}" for one in header.promises) or None,
        "written by": header.library,
    }
    return "\n".join(f"- {name}: {'none' if value is None else _code(str(value))}" for name, value in facts.items())


def _code(text: str) -> str:
    """As code, in which neither markup nor a line break can hide."""
    plain = " ".join(text.replace("`", "'").replace("|", "/").split())
    return f"`{plain}`"
