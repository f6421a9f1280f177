"""Write the figures of the last quickstart run into README.md: python experiments/readme_figures.py."""

import argparse
import json
from pathlib import Path
from typing import Any

from src import files
from src.report.words import SCORERS, figure, percent_interval, with_interval

BEGIN, END = "<!-- quickstart:begin -->\n", "<!-- quickstart:end -->"


def scores_table(results: dict[str, Any]) -> list[str]:
    """Every scorer on all questions and on each subject, base beside tuned."""
    variants = results["variants"]
    lines = ["| questions | scorer | " + " | ".join(f"{name}: AUROC | {name}: ECE" for name in variants) + " |"]
    lines.append("|---|---|" + "---|---|" * len(variants))
    for part in variants["base"]["scores"]["own_probability"]:
        for scorer, label in SCORERS.items():
            if part not in variants["base"]["scores"].get(scorer, {}):
                continue
            cells = []
            for variant in variants.values():
                score = variant["scores"][scorer][part]
                ece = score.get("ece")
                null = f"{figure(ece['value'])} (calibrated: {figure(ece['calibrated_mean'])})" if ece else ""
                cells += [with_interval(score["auroc"]), null]
            lines.append(f"| {part} | {label} | " + " | ".join(cells) + " |")
    return lines


def tags_table(results: dict[str, Any]) -> list[str]:
    """Accuracy by how often a fact was seen, base beside tuned."""
    base, tuned = (results["variants"][name] for name in ("base", "tuned"))
    lines = ["| facts | test questions | base accuracy | tuned accuracy |", "|---|---|---|---|"]
    for tag, entry in base["tags"].items():
        after = percent_interval(tuned["tags"][tag]["accuracy"])
        lines.append(f"| {tag} | {entry['n']} | {percent_interval(entry['accuracy'])} | {after} |")
    return lines


def block(results: dict[str, Any]) -> str:
    """The generated part of the README."""
    data = results["data"]
    n, test, million = data["n"], data["splits"]["test"], results["model"]["parameters"] / 1e6
    cost = f"{results['seconds']['total']:.0f} s, {results['peak_memory_mb'] / 1024:.2f} GB peak"
    accuracy = {name: percent_interval(v["accuracy"]["all"]) for name, v in results["variants"].items()}
    parts = [
        f"{n:,} questions ({test:,} for test), a model of {million:.2f} M parameters, {cost}. "
        f"Accuracy: base {accuracy['base']}, tuned {accuracy['tuned']}.",
        "\n".join(f"- {sentence}" for sentence in results["verdict"]),
        "\n".join(scores_table(results)),
        "\n".join(tags_table(results)),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Replace what stands between the two marks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="the folder of the run")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="the file to change")
    options = parser.parse_args()
    results = json.loads((options.run / "results.json").read_text(encoding="utf-8"))
    text = options.readme.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    files.write_text(options.readme, head + BEGIN + block(results) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
