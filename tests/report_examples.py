"""results.json of a run that never was, after docs/results.md: for what the report does with any run's numbers."""

from typing import Any

import numpy as np

RISKS = (0.05, 0.1)
SCORES = ("auroc", "brier", "nll", "ece", "ece_mass")
WHOLE = ("smooth_ece", "ks", "mcb", "dsc", "aurc", "e_aurc", "prr", *(f"accuracy_at_{c}" for c in (50, 80, 90)))
# How well each scorer tells right from wrong, as the distance of the two kinds of answers in logits.
STRENGTH = {"probe": 1.6, "own_probability": 1.2, "text_only": 0.5}


def example_results(
    *,
    subjects: int = 3,
    n_test: int = 600,
    layers: int = 5,
    positions: tuple[str, ...] = ("last_prompt",),
    families: tuple[str, ...] = ("logistic",),
    tuned: bool = True,
    adapters: tuple[str, ...] = ("tuned",),
    probe: bool = True,
    one_class: bool = False,
    text: str = "Which river is the longest?",
    name: str = "example",
    seed: int = 0,
) -> dict[str, Any]:
    """A whole run of schema 4. `text` becomes every text from outside: questions, answers, names of subjects."""
    rng = np.random.default_rng(seed)
    names = [f"{text} {number}" if text.startswith("<") else f"subject {number}" for number in range(subjects)]
    of_subject = np.sort(np.arange(n_test) % max(1, subjects))
    adapters = adapters if tuned else ()
    args = {"rng": rng, "names": names, "of_subject": of_subject, "text": text}
    variants = {
        model: _variant(
            **args, layers=layers, positions=positions, families=families, probe=probe and not one_class,
            rate=1.0 if one_class else 0.55 + 0.1 * place / max(1, len(adapters)),
        )
        for place, model in enumerate(("base", *adapters))
    }  # fmt: skip
    counts = {f"{subject}": 5 * int((of_subject == place).sum()) for place, subject in enumerate(names)}
    return {
        "schema": 4,
        "name": name,
        "created": "2026-11-23T05:33:34+00:00",
        "versions": {"llm-confidence-probing": "0.1.0", "numpy": "2.4.6"},
        "git_commit": "6e5d52a9c469",
        "config": {
            "experiment": {"name": name, "seed": 42},
            "data": {"unparsed": "wrong"},
            "evaluation": {"bootstrap": 2000, "bins": 15, "risks": list(RISKS), "certainty": 0.95},
        },
        "seconds": {"total": 21.6},
        "peak_memory_mb": 930,
        "model": {
            "name": "models/example", "parameters": 1_313_152, "steps_from": "name" if adapters else None,
            "adapters": {name: {"folder": f"adapters/{name}", "step": 100 * n} for n, name in enumerate(adapters, 1)},
        },
        "data": {
            "n": 5 * n_test, "chance": 0.25, "subjects": counts, "repeated": 3, "trained_on": 0,
            "splits": {"train": 3 * n_test, "val": n_test // 2, "calibration": n_test // 2, "test": n_test},
        },
        "variants": variants,
        "comparisons": {
            name: _comparison(rng, names, one_class, probe=probe and not one_class) for name in adapters
        },
        "verdict": ["Fine-tuning made the model more accurate.", "A second sentence.", f"{text}"],
    }  # fmt: skip


def example_comparison(label: str = "one") -> dict[str, Any]:
    """What `confprobe report RUN RUN... --json` prints of two models; `label` names the first."""

    def score():
        return {metric: number(0.7) for metric in ("auroc", "brier", "nll", "ece")}

    def side(name):
        return {"label": name, "run": f"runs/{name}", "name": name, "variant": "base", "model": "m", "adapter": None,
                "quantization": None, "dtype": "float32", "settings": {"data.limit": 7}, "n_test": 90,
                "accuracy": number(0.6), "scores": {"own_probability": score(), "probe": score()}}  # fmt: skip

    change = {metric: number(0.03, p=0.01, p_holm=0.04) for metric in ("accuracy", "auroc", "brier", "nll", "ece")}
    found = {"own_probability": number(0.7), "probe": undefined()}
    difference = {"label": "two", "against": label, "flips": {"gained": 3, "lost": 5, "p_value": 0.7},
                  "scores": {"own_probability": change, "probe": change},
                  "disagreement": {"n": 8, "first": found, "second": found}}  # fmt: skip
    return {"schema": 1, "shared": {"n": 80}, "sides": [side(label), side("two")], "differences": [difference],
            "verdict": ["They differ.", "Somewhat."]}  # fmt: skip


def number(value: float, n: int = 600, **more: Any) -> dict[str, Any]:
    """A number with an interval as wide as that of a share among n."""
    half = 0.98 / np.sqrt(max(n, 4))
    return {"value": float(value), "low": float(value - half), "high": float(value + half), **more}


def undefined(**more: Any) -> dict[str, Any]:
    """A number without a value."""
    return {"value": None, "low": None, "high": None, "reason": "one class: every answer is right", **more}


def _variant(*, rng, names, of_subject, text, layers, positions, families, probe, rate) -> dict[str, Any]:
    n = of_subject.size
    right = rng.random(n) < rate
    scorers = {s: _confidences(rng, right, d) for s, d in STRENGTH.items() if probe or s == "own_probability"}
    parts = {"all": np.ones(n, dtype=bool)}
    if len(names) > 1:
        parts |= {name: of_subject == place for place, name in enumerate(names)}
    accuracy = {part: _share(right[rows], part) for part, rows in parts.items()}
    scores = {s: {part: _score(p, right, rows, part) for part, rows in parts.items()} for s, p in scorers.items()}
    scores["margin"] = {"all": _score(scorers["own_probability"], right, parts["all"], "")}
    if probe:
        for metric in SCORES:
            scores["probe"]["all"][metric]["training_sd"] = 0.008
        control = {part: {"n": int(rows.sum()), "auroc": number(0.5, 60)} for part, rows in parts.items()}
        scores["shuffled_labels"] = control
    main = {s: p for s, p in scorers.items() if s != "text_only"}
    depths = ("embeddings", *range(layers), "final_norm")
    grid = [(position, layer, family) for position in positions for layer in depths for family in families]
    swept = [_layer(*place, layers, rng) for place in grid] if probe else []
    best = min(swept, key=lambda result: result["val_nll"], default=None)
    return {
        "accuracy_all_questions": float(right.mean()),
        "status": {"answered": n - 2, "nothing found": 2},
        "unreadable": 2,
        "truncated": 0,
        "elsewhere": {},
        "unsaid": {},
        "choice_mass": 0.97,
        "accuracy": accuracy,
        "scores": scores,
        "advantages": {
            f"probe_over_{other}": {part: number(0.05, rows.sum(), p=0.01, p_holm=0.03) for part, rows in parts.items()}
            for other in ("own_probability", "text_only")
        } if probe else {},
        "gain": {
            part: {"own_nll": 0.6, "both_nll": 0.55, "gain": number(0.05, 9000)} for part in parts
        } if probe else {},
        "selective": {s: [_promise(p, right, risk) for risk in RISKS] for s, p in main.items()},
        "risk_coverage": {s: _risk_coverage(p, right) for s, p in main.items()},
        "histogram": {s: _histogram(p, right) for s, p in main.items()},
        "reliability": {s: _bins(p, right) for s, p in scorers.items()},
        "examples": {s: _examples(p, right, text) for s, p in main.items()},
        "layers": swept,
        "selected": {key: best[key] for key in ("position", "layer", "family", "C")}
        | {"candidates": len(swept), "chosen_by": "validation"}
        if best else None,
        "tags": {"rare": {"n": 40, "accuracy": number(0.6, 40), "mean_own_probability": 0.7}},
        "splits": {"train": 300, "val": 100, "calibration": 100, "test": len(right)},
        "missing": "" if probe else "one class: every training answer is right",
        "held_out": {"subjects": _held_out(names if len(names) > 1 else [], n)} if probe else {},
    }  # fmt: skip


def _held_out(names, n) -> dict[str, Any]:
    if not names:
        return {"by": "subject", "missing": "all questions are of one subject"}
    scores = {
        scorer: {"auroc": number(value, n), "brier": number(0.2, n), "nll": number(0.6, n),
                 "ece": number(0.05, n, calibrated_mean=0.02, calibrated_q95=0.03)}
        for scorer, value in {"held_out": 0.6, "probe": 0.7, "own_probability": 0.75}.items()
    }  # fmt: skip
    change = {metric: number(-0.1, n, p=0.01, p_holm=0.02) for metric in ("auroc", "brier", "nll")}
    judged = {"n": n, "scores": scores, "differences": {"probe": change, "own_probability": change}}
    groups = [
        {"name": name, "subjects": [name], "splits": {"train": 300, "val": 100, "test": n}, "missing": "",
         "selected": {"position": "last_prompt", "layer": "block.1", "family": "logistic", "C": 0.01}} | judged
        for name in names
    ]  # fmt: skip
    cells = [[number(0.8 if a == b else 0.51, n) for b in names] for a in names]
    matrix = {"auroc": cells, "nll": cells}
    return {"by": "subject", "missing": "", "all": judged, "groups": groups, "matrix": matrix}


def _confidences(rng, right, distance):
    logits = rng.normal(np.where(right, distance, -distance) / 2 + 0.4, 1.0)
    return 1 / (1 + np.exp(-1.2 * logits))


def _share(right, part):
    found = number(right.mean(), right.size)
    if part == "all":
        return found
    return found | {"n": right.size, "shrunk": number(0.5 + right.mean() / 4, 4 * right.size)}


def _score(p, right, rows, part) -> dict[str, Any]:
    p, y = p[rows], right[rows]
    floors = {"calibrated_mean": 0.02, "calibrated_q95": 0.03}
    values = {"auroc": _auroc(p, y), "brier": ((p - y) ** 2).mean(), "nll": 0.55, "ece": 0.08, "ece_mass": 0.09}
    whole = dict.fromkeys(WHOLE, 0.08) | {"auroc_within": 0.7, "accuracy_at_50": 0.8} if part in ("all", "") else {}
    found: dict[str, Any] = {"n": y.size}
    for metric, value in (values | whole).items():
        found[metric] = undefined() if value is None else number(value, y.size)
        if metric in ("ece", "ece_mass", "smooth_ece", "ks"):
            found[metric] |= floors
    if part not in ("all", ""):
        found["auroc"]["shrunk"] = number(0.7, 4 * y.size) if values["auroc"] is not None else undefined()
    return found


def _auroc(p, y) -> float | None:
    if y.all() or not y.any():
        return None
    ranks = np.argsort(np.argsort(p))
    return float((ranks[y].mean() - (y.sum() - 1) / 2) / (~y).sum())


def _layer(position, layer, family, layers, rng) -> dict[str, Any]:
    depth = {"embeddings": -1, "final_norm": layers}.get(layer, layer)
    value = 0.55 + 0.25 * np.exp(-(((depth - 0.6 * layers) / (0.4 * layers + 1)) ** 2)) + rng.normal(0, 0.01)
    name = layer if isinstance(layer, str) else f"block.{layer}"
    return {"position": position, "layer": name, "family": family, "C": 0.01 if family == "logistic" else None,
            "val_nll": 1 - value / 2, "val_auroc": value,
            "val_auroc_low": value - 0.03, "val_auroc_high": value + 0.03}  # fmt: skip


def _promise(p, right, risk) -> dict[str, Any]:
    nothing = {"threshold": None, "answered": 0, "wrong": 0, "coverage": 0.0}
    promise = {"risk": risk, "certainty": 0.95, "n": right.size, **nothing}
    for threshold in np.arange(0.5, 1, 0.02):
        chosen = p >= threshold
        if chosen.sum() > 40 and (~right[chosen]).mean() < risk:
            wrong = int((~right[chosen]).sum())
            promise |= {"threshold": float(threshold), "answered": int(chosen.sum()), "wrong": wrong,
                        "coverage": float(chosen.mean())}  # fmt: skip
            test = {"answered": int(chosen.sum()), "wrong": wrong, "coverage": number(chosen.mean())}
            return promise | {"test": test | {"risk": number(wrong / chosen.sum())}}
    return promise | {"test": None}


def _risk_coverage(p, right) -> dict[str, Any]:
    risk = np.cumsum(~right[np.argsort(-p)]) / np.arange(1, p.size + 1)
    kept = np.unique(np.linspace(0, p.size - 1, 200).astype(int))
    return {"coverage": ((kept + 1) / p.size).tolist(), "risk": risk[kept].tolist()}


def _histogram(p, right) -> dict[str, Any]:
    edges = np.linspace(0, 1, 21)
    right_counts, wrong_counts = (np.histogram(p[rows], edges)[0].tolist() for rows in (right, ~right))
    return {"edges": edges.tolist(), "right": right_counts, "wrong": wrong_counts}


def _bins(p, right) -> list[dict[str, Any]]:
    found = []
    for low in np.arange(15) / 15:
        rows = (p > low) & (p <= low + 1 / 15)
        if rows.any():
            share, half = right[rows].mean(), 0.98 / np.sqrt(rows.sum())
            found.append({
                "low": low, "high": low + 1 / 15, "n": int(rows.sum()), "confidence": float(p[rows].mean()),
                "accuracy": float(share), "accuracy_low": max(0, share - half), "accuracy_high": min(1, share + half),
            })  # fmt: skip
    return found


def _examples(p, right, text) -> dict[str, Any]:
    def rows(chosen, sign):
        places = sorted(np.flatnonzero(chosen), key=lambda row: sign * p[row])[:10]
        return [
            {"id": f"q{row}", "subject": text[:40], "question": f"{text} ({row})", "answer": f"{text} A",
             "target": f"{text} B", "confidence": float(p[row])}
            for row in places
        ]  # fmt: skip

    return {"wrong": rows(~right, -1), "right": rows(right, 1)}


def _comparison(rng, names, one_class, *, probe) -> dict[str, Any]:
    def change(n):
        found = {metric: number(0.03, 4 * n, p=0.012, p_holm=0.05) for metric in ("accuracy", *SCORES)}
        return found | ({"auroc": undefined(p=None, p_holm=None)} if one_class else {})

    parts = ["all", *(names if len(names) > 1 else [])]
    scorers = list(STRENGTH) if probe else ["own_probability"]
    side = {"own_probability": number(0.7, 90), "text_only": number(0.51, 90)}
    if probe:
        side |= {"probe": number(0.72, 90), "other_probe": number(0.4, 90)}
    return {
        "flips": {"gained": 90, "lost": 40, "p_value": 0.00002},
        "scores": {s: {part: change(600 if part == "all" else 100) for part in parts} for s in scorers},
        "disagreement": {"n": 130, "base": dict(side), "tuned": dict(side)},
    }
