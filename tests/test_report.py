"""How results look: whole from partial data, escaped, small, the same bytes twice, told apart without colour."""

import copy
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from src.cli.ending import plain_errors
from src.errors import ConfigError
from src.report import (
    drawings,
    plots,
    print_comparison,
    print_report,
    render_comparison,
    render_html,
    render_summary,
    verdict,
    words,
)
from src.report.drawings import drawn_models
from src.report.findings import about_scale
from src.report.plots.style import COLORS, MARKERS, axes, finish, looks, plain
from src.report.svg import svg
from src.report.words import short_name
from tests.report_examples import example_comparison, example_results, number, undefined

HOSTILE = '<script>alert("1")</script>" onload="alert(1) $\\frac{$ \x00 \u202e 中文'


@pytest.fixture(scope="module")
def results():
    return example_results(subjects=3, n_test=240, layers=2, positions=("last_prompt", "last_answer"))


@pytest.fixture(scope="module")
def page(results):
    return render_html(results)


@pytest.fixture
def undrawn(monkeypatch):
    """`render_html` without its figures, which take most of its time."""
    sections = ("knows", "trust", "sure", "adapters", "subjects", "elsewhere")
    monkeypatch.setattr("src.report.html.drawings", lambda _: {section: [] for section in sections})
    return render_html


@pytest.fixture
def drawn_first(monkeypatch):
    """Draws the figures of the first section, which show the candidates, and no others."""
    for name in ("_trust", "_subjects", "_elsewhere"):
        monkeypatch.setattr(drawings, name, lambda _: [])
    return lambda results: drawings.drawings(results)["knows"]


def points(line):
    """(n, 2) where a line goes."""
    return np.asarray(line.get_xydata())


def printed(show, content):
    text = io.StringIO()
    show(content, console=Console(file=text, width=120, markup=False, emoji=False))
    return text.getvalue()


def parsed(page):
    """The names of all tags and of all attributes of a page, as a browser would find them."""
    tags, attributes = [], []

    class Finder(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)
            attributes.extend(name for name, _ in attrs)

    Finder().feed(page)
    return tags, attributes


PARTIAL = {
    "three adapters": {"adapters": ("checkpoint-100", "checkpoint-200", "checkpoint-300")},
    "two adapters, one class": {"adapters": ("a", "b"), "one_class": True},
    "no adapter": {"tuned": False},
    "no probe": {"probe": False},
    "no subjects": {"subjects": 1},
    "one class": {"one_class": True},
    "one class, no adapter, no subjects": {"one_class": True, "tuned": False, "subjects": 0},
}


@pytest.mark.parametrize("missing", PARTIAL)
def test_the_report_is_whole_whatever_a_run_does_not_have(missing):
    results = example_results(n_test=90, layers=2, **PARTIAL[missing])
    page = render_html(results)
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections == re.findall(r'href="#(\w+)">', page)[1:]  # the first is the skip link
    assert ("change" in sections) == bool(results["comparisons"])
    assert ("adapters" in sections) == (len(results["comparisons"]) > 1)
    assert ("subjects" in sections) == (len(results["data"]["subjects"]) > 1)
    assert results["variants"]["base"]["missing"] in page
    assert "None" not in re.sub(r"<[^>]*>", " ", page)
    assert "nan" not in re.findall(r"[\w.]+", re.sub(r"<[^>]*>", " ", page))
    print_report(results, console=Console(file=io.StringIO(), width=120))
    assert render_summary(results, "report.html")


def test_what_is_undefined_is_said_with_its_reason_and_sorts_last(undrawn):
    page = undrawn(example_results(n_test=90, one_class=True))
    assert 'data-v="">undefined <small>(one class: every answer is right)</small>' in page


def test_texts_from_outside_are_escaped_wherever_they_stand():
    hostile = example_results(n_test=60, layers=1, subjects=2, tuned=False, text=HOSTILE, name=HOSTILE)
    many = example_results(n_test=60, layers=1, subjects=1, adapters=(HOSTILE, "$_{"))
    for page in (
        render_html(hostile),
        render_html(many | {"verdict": verdict(many)}),
        render_summary(hostile, HOSTILE),
        render_comparison(example_comparison(HOSTILE)),
    ):
        assert "alert(" in page
        assert "<script>alert" not in page
        tags, attributes = parsed(page)
        assert tags.count("script") == tags.count("html")  # the page's own
        assert not [name for name in attributes if name.startswith("on")]


def test_nothing_from_outside_moves_the_terminals_cursor(capsys):
    told = example_results(n_test=60, layers=1, subjects=2, tuned=False, text="a\x1b[2Jb\u202ec", name="n\x1b]0;t\x07")
    print_report(told)
    printed = capsys.readouterr().out
    assert "n\N{REPLACEMENT CHARACTER}]0;t" in printed
    assert not [character for character in printed if ord(character) < 32 and character != "\n"]
    with pytest.raises(SystemExit), plain_errors("confprobe"):
        raise ConfigError("no \x1b[31mcolour\nhere")
    assert capsys.readouterr().err == "confprobe: no \N{REPLACEMENT CHARACTER}[31mcolour\nhere\n"


def test_a_notebooks_link_is_a_path_and_no_script(results):
    def address(report):
        return re.findall('<a href="([^"]*)"', render_summary(results, report))

    assert address("javascript:alert(1)/report.html") == ["./javascript:alert(1)/report.html"]
    assert address("/runs/x/report.html") == ["/runs/x/report.html"]
    assert address("s3://bucket/report.html") == []


def test_nothing_in_the_page_points_outside(page):
    addresses = re.findall(r'(?:href|src|action|xmlns)="([^"]*)"', page)
    assert all(address.startswith("#") for address in addresses)
    assert "//" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL).replace("/* ", "")
    assert "url(http" not in page
    assert "@import" not in page


def test_the_page_allows_only_the_script_that_it_holds(page):
    import base64
    import hashlib

    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.replace("&#39;", "'")
    assert "default-src 'none'" in page
    assert " onclick" not in page


def test_equal_results_give_equal_bytes_and_the_results_are_left_alone():
    results = example_results(n_test=60, layers=1, tuned=False, subjects=2)
    before = copy.deepcopy(results)
    assert render_html(results) == render_html(before)
    assert results == before
    assert render_comparison(example_comparison()) == render_comparison(example_comparison())


@pytest.mark.slow
def test_the_report_of_all_of_mmlu_is_under_two_megabytes():
    positions = ("last_prompt", "first_answer", "last_answer")
    results = example_results(subjects=57, n_test=14_042, layers=32, positions=positions)
    assert len(render_html(results).encode()) < 2_000_000


def test_every_figure_is_drawn_on_the_axes_given(results):
    from matplotlib.figure import Figure

    variants, base = results["variants"], results["variants"]["base"]
    draws = [
        lambda ax: plots.reliability_diagram(base["reliability"]["probe"], number(0.1), label="x", ax=ax),
        lambda ax: plots.confidence_by_correctness(base["histogram"]["probe"], label="x", ax=ax),
        lambda ax: plots.layer_curve(variants, ax=ax),
        lambda ax: plots.layer_map(base, label="x", ax=ax),
        lambda ax: plots.risk_coverage(variants, ax=ax),
        lambda ax: plots.base_against_tuned(variants, "brier", ax=ax),
        lambda ax: plots.subject_dots(variants, "probe", ax=ax),
        lambda ax: plots.subject_dots(variants, ax=ax),
        lambda ax: plots.transfer_map(base["held_out"]["subjects"], label="x", ax=ax),
        lambda ax: plots.sides(example_comparison()["sides"], "ece", ax=ax),
    ]
    for draw in draws:
        ax = Figure().subplots()
        assert draw(ax) is ax
        assert ax.get_title()


def test_a_figure_shows_the_numbers_of_the_results(results):
    bins = results["variants"]["tuned"]["reliability"]["probe"]
    ax = plots.reliability_diagram(bins, {"value": 0.1234, "calibrated_mean": 0.02}, label="tuned: probe")
    assert ax.get_title() == "tuned: probe\nECE .123 (perfectly calibrated: .020)"
    np.testing.assert_allclose(points(ax.lines[-1]), [(b["confidence"], b["accuracy"]) for b in bins])
    heights = np.array([bar.get_height() for bar in ax.containers[0]])
    np.testing.assert_allclose(heights / heights.max(), np.array([b["n"] for b in bins]) / max(b["n"] for b in bins))


def test_a_subject_of_few_questions_is_hollow(results):
    few = copy.deepcopy(results["variants"]["base"])
    few["accuracy"]["subject 1"]["n"] = 99
    few["accuracy"]["subject 2"]["n"] = few["accuracy"]["subject 0"]["n"] = 100
    ax = plots.subject_dots({"base": few})
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [len(points(line)) for line in hollow] == [1]
    assert points(hollow[0])[0][0] == few["accuracy"]["subject 1"]["value"]


def test_only_promises_that_could_be_made_are_marked(results):
    variants = {"base": copy.deepcopy(results["variants"]["base"])}
    for promises in variants["base"]["selective"].values():
        for promise in promises:
            promise.update(threshold=None, test=None)
    unmarked = plots.risk_coverage(variants)
    assert not any(line.get_marker() == MARKERS["base"] for line in unmarked.lines)
    kept = {"coverage": number(0.4), "risk": number(0.03)}
    variants["base"]["selective"]["probe"][0].update(threshold=0.9, test=kept)
    (mark,) = [line for line in plots.risk_coverage(variants).lines if line.get_marker() == MARKERS["base"]]
    assert points(mark).tolist() == [[0.4, 0.03]]


def test_what_is_undefined_is_not_drawn(results):
    def dots():
        lines = plots.base_against_tuned({"base": variant}).lines
        return sum(len(points(line)) for line in lines if line.get_marker() == MARKERS["base"])

    variant = copy.deepcopy(results["variants"]["base"])
    whole = dots()
    variant["scores"]["probe"]["all"]["auroc"] = undefined()
    assert dots() == whole - 1


def test_scripts_that_our_own_font_lacks_are_drawn_without_a_warning():
    assert "中文" in svg(lambda: finish(axes(None), "中文"), "a")


def test_base_and_tuned_differ_in_grey_and_in_shape():
    def lightness(color):
        channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 116 * np.cbrt(np.dot([0.2126, 0.7152, 0.0722], linear)) - 16

    assert abs(lightness(COLORS["base"]) - lightness(COLORS["tuned"])) > 20
    assert MARKERS["base"] != MARKERS["tuned"]


def test_colours_of_a_figure_are_those_of_the_page(results):
    drawn = svg(lambda: plots.subject_dots(results["variants"]), "a")
    assert "var(--base)" in drawn
    assert "currentColor" in drawn
    assert "#000000" not in drawn
    assert COLORS["base"] not in drawn


def test_two_figures_of_a_page_share_no_id(results):
    def draw():
        return plots.confidence_by_correctness(results["variants"]["base"]["histogram"]["probe"], label="x")

    first, second = (set(re.findall(r'\bid="([^"]+)"', svg(draw, key))) for key in ("a", "b"))
    assert first
    assert not first & second
    text = svg(draw, "a")
    pointed_at = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
    assert {one or other for one, other in pointed_at} == first


def test_a_picture_inside_a_figure_stays_what_it_is():
    def draw():
        ax = axes(None)
        ax.imshow([[0, 1], [1, 0]])
        return finish(ax, "pixels")

    assert 'href="data:image/png;base64,' in svg(draw, "a")


def test_a_name_from_outside_is_one_short_line_without_formulas():
    assert plain("a\nb\x00c") == "a b c"
    assert plain("costs $5 and $6") == r"costs \$5 and \$6"
    assert len(plain("x" * 500)) == 28
    drawn = svg(lambda: finish(axes(None), plain(r"$\frac{ <b>")), "a")
    assert 'aria-label="$\\frac{ &lt;b&gt;"' in drawn


def test_the_terminal_says_what_can_be_promised_what_is_gained_and_where_models_differ(results):
    told = copy.deepcopy(results)
    base = told["variants"]["base"]
    kept = {"threshold": 0.9, "risk": 0.05, "test": {"coverage": number(0.25)}}
    base["selective"] = {"own_probability": [kept], "probe": [{"threshold": None, "risk": 0.05, "test": None}]}
    base["gain"] = {"all": {"own_nll": 0.5, "both_nll": 0.4, "gain": {"value": 0.1, "low": 0.05, "high": 0.15}}}
    shown = printed(print_report, told)
    assert "own probability: wrong at most 5% from .900 up (25.0% answered)." in shown
    assert "probe: nothing can be promised." in shown
    assert "the probe adds +.100 [+.050, +.150] nats" in shown
    assert "130 test questions that only one of the two got right" in shown
    assert "the probe adds +.100 [+.050, +.150] nats" in render_summary(told, "report.html")


@pytest.mark.parametrize(
    ("own", "scaled", "told"),
    [(0.14, 0.02, "it is a matter of scale."), (0.14, 0.09, "that is not a matter of scale alone."), (0.04, 0.02, "")],
)
def test_how_much_of_a_miscalibration_is_scale_is_said_where_there_is_some(own, scaled, told):
    variant = copy.deepcopy(example_results(tuned=False)["variants"]["base"])
    scores = variant["scores"]
    assert about_scale(variant) == []  # as in runs from before there was such a number
    variant["splits"]["val"] = 300
    scores["own_recalibrated"] = {"all": copy.deepcopy(scores["own_probability"]["all"])}
    for name, ece in (("own_probability", own), ("own_recalibrated", scaled)):
        scores[name]["all"]["ece"] |= {"value": ece, "calibrated_mean": 0.03, "calibrated_q95": 0.05}
    said = about_scale(variant)
    assert [told in one and f"in place of .{own * 1000:.0f}" in one for one in said] == [True] * bool(told)
    scores["own_recalibrated"]["all"]["auroc"]["value"] = 0.5  # slope 0
    assert ["wrong answers have the higher ones" in one for one in about_scale(variant)] == [True] * bool(told)
    variant["splits"]["val"] = 99
    assert about_scale(variant) == []


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "told"),
    [(-0.2, -0.3, -0.1, 0.001, ", clearly more than the probe's"),
     (0.2, 0.1, 0.3, 0.001, ", clearly less than the probe's"),
     (-0.2, -0.3, 0.1, 0.2, ""), (-0.2, -0.3, -0.1, 0.2, "")],
)  # fmt: skip
def test_whether_the_text_tells_more_than_the_probe_is_said(results, value, low, high, p, told):
    changed = copy.deepcopy(results)
    for variant in changed["variants"].values():
        variant["advantages"]["probe_over_text_only"]["all"] |= {"value": value, "low": low, "high": high, "p_holm": p}
    (said,) = (sentence for sentence in verdict(changed) if "text alone reaches" in sentence)
    assert ("clearly" in said.partition(";")[0]) == bool(told)
    assert told in said


def test_runs_compared_show_every_model_and_what_differs():
    shown = printed(print_comparison, example_comparison())
    page = render_comparison(example_comparison())
    for text in ("They differ.", "Somewhat.", "two", "+.030"):
        assert text in shown
        assert text in page
    assert "data.limit: 7" in page
    assert page.count("two minus one") == 2  # the caption and its label
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.2, ".200"), (0.005, ".005"), (0.0004, "< .001"), (None, "undefined"), (1.0, "1.000")],
)
def test_p_values_read_as_in_papers(value, told):
    assert words.p_value(value) == told


def test_an_interval_is_written_only_where_there_is_one():
    assert words.bounds(number(0.5, 4)) == "[.010, .990]"
    assert words.bounds(number(0.5, 4), share=True, signed=True) == "[+1.0, +99.0]"
    assert words.bounds(undefined()) == ""
    assert words.with_interval({"value": 0.5, "low": None, "high": None, "reason": "no spread"}) == ".500"


@pytest.mark.parametrize("lost", ["one layer", "every layer"])
def test_a_layer_whose_auroc_is_unknown_is_not_drawn_and_breaks_nothing(results, drawn_first, undrawn, lost):
    """So it is where validation holds one class, or a probe is right about all of it."""
    changed = copy.deepcopy(results)
    for variant in changed["variants"].values():
        for result in variant["layers"][: 1 if lost == "one layer" else None]:
            result |= {"val_auroc": None, "val_auroc_low": None, "val_auroc_high": None}
    assert "<svg" in "".join(drawn_first(changed))
    assert "undefined" in undrawn(changed)


def test_all_candidates_stand_in_one_table_and_their_number_everywhere(undrawn):
    families, positions = ("logistic", "mean_difference", "mlp"), ("last_prompt", "last_answer")
    results = example_results(n_test=60, layers=2, positions=positions, families=families, tuned=False)
    base = results["variants"]["base"]
    page = undrawn(results)
    said = "chosen of 24 candidates (4 layers x 2 positions x 3 families) on validation"
    assert said in page
    assert words.how_chosen(base).endswith(f"{said}.")
    rows = re.findall(r"<tr><th scope=\"row\">(last_\w+)</th><td>([\w. ()]+)</td><td>([\w ]+)</td>", page)
    assert len(rows) == 24
    (chosen,) = [row for row in rows if row[1].endswith(" (chosen)")]
    selected = base["selected"]
    assert chosen == (selected["position"], f"{selected['layer']} (chosen)", words.FAMILIES[selected["family"]])
    assert words.candidates({"layers": base["layers"][:1]}) == "1 candidate (1 layer x 1 position x 1 family)"
    assert words.candidates({"layers": base["layers"][:-1]}).endswith("(4 layers, 2 positions, 3 families)")


def test_a_place_is_drawn_with_its_best_family():
    results = example_results(n_test=60, layers=1, families=("logistic", "mlp"), tuned=False)
    base = results["variants"]["base"]
    for place, one in enumerate(base["layers"]):
        one["val_nll"] = 0.6 - 0.1 * (place in (1, 2, 5))
    best = [base["layers"][place] for place in (1, 2, 5)]
    line = plots.layer_curve({"base": base}).lines[0]
    assert line.get_ydata() == pytest.approx([one["val_auroc"] for one in best])


def test_results_from_before_there_were_families_are_shown(drawn_first, undrawn):
    results = example_results(n_test=60, layers=1, tuned=False)
    base = results["variants"]["base"]
    for one in (*base["layers"], base["selected"]):
        del one["family"]
    assert "<svg" in "".join(drawn_first(results))
    assert "chosen of 3 candidates (3 layers x 1 position x 1 family)" in undrawn(results)


def over(results, metric, *changes, scorer="own_probability"):
    """These differences of each adapter in turn, as (value, corrected p); uncorrected all would be clear."""
    for (name, one), (value, p) in zip(results["comparisons"].items(), changes, strict=True):
        one["scores"][scorer]["all"][metric] = number(value, 10**6, p=0.001, p_holm=p)
        part = results["variants"][name]
        found = part["accuracy"] if metric == "accuracy" else part["scores"][scorer]
        base = results["variants"]["base"]
        start = base["accuracy"]["all"] if metric == "accuracy" else base["scores"][scorer]["all"][metric]
        if metric == "accuracy":
            found["all"] = number(start["value"] + value)
        else:
            found["all"][metric] = number(start["value"] + value, calibrated_mean=0.02, calibrated_q95=0.03)


@pytest.fixture
def checkpoints():
    results = example_results(n_test=60, layers=1, subjects=1, adapters=("step-1", "step-2", "step-3"))
    for scorer in ("own_probability", "probe"):
        for metric in ("accuracy", "auroc", "ece", "nll"):
            over(results, metric, *[(0.01, 0.9)] * 3, scorer=scorer)
    return results


def test_several_adapters_that_cannot_be_told_apart_are_said_to_be_so(checkpoints):
    first, *rest = verdict(checkpoints)
    assert first.startswith("None of the 3 adapters can be told apart from the base model")
    assert rest[0].startswith("Accuracy: base model ")
    assert "none is clearly different from the base model" in rest[0]
    assert any("asks for more than an interval without zero" in line for line in rest)


def test_adapters_that_are_equally_good_are_named_together(checkpoints):
    over(checkpoints, "accuracy", (0.1, 0.2), (0.3, 0.001), (0.3, 0.001))
    for name in ("step-2", "step-3"):
        checkpoints["variants"][name]["accuracy"]["all"] = number(0.9)
    first, *rest = verdict(checkpoints)
    assert "step-2, like step-3, is the most accurate" in first
    assert "best step-2 and step-3 with 90.0%" in rest[0]


def test_of_many_adapters_figures_show_five_and_say_which(undrawn):
    many = example_results(n_test=60, layers=2, subjects=1, adapters=tuple(f"run-{n}" for n in range(1, 31)))
    names = ["base", "run-1", "run-8", "run-15", "run-23", "run-30"]
    assert list(drawn_models(many)) == names
    assert len(set(looks(drawn_models(many)).values())) == len(names)
    page = undrawn(many | {"verdict": verdict(many)})
    assert f"5 of 30 adapters here, and where models stand beside each other: {', '.join(names[1:])}." in page


def test_long_names_keep_the_end_that_tells_them_apart_wherever_they_stand(undrawn):
    names = tuple(f"my-quite-long-name-of-an-experiment-{letter}" for letter in "abc")
    long = example_results(n_test=60, layers=2, subjects=1, adapters=names)
    page, shown = undrawn(long | {"verdict": verdict(long)}), printed(print_report, long)
    for name in names:
        cut = short_name(name)
        assert (len(cut), cut[-5:], cut[:5]) == (28, name[-5:], name[:5])
        assert f'<dt title="{name}">{cut}</dt>' in page
        assert cut in shown
        assert plain(name) == cut


def test_a_legend_of_long_labels_is_one_column_and_its_figure_grows():
    names = ("checkpoint-100", "checkpoint-200", "checkpoint-300")
    several = example_results(n_test=60, layers=2, subjects=1, adapters=names)
    ax = plots.risk_coverage(several["variants"], ("own_probability",))
    figure = ax.get_figure()
    figure.canvas.draw()
    (shown,) = figure.legends
    box = shown.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert ax.get_window_extent().height > 100
    assert plain("_hidden").endswith("_hidden")
    assert not plain("_hidden").startswith("_")


def test_the_verdict_names_which_adapter_is_best_on_what_and_which_got_worse(checkpoints):
    over(checkpoints, "accuracy", (0.1, 0.001), (0.3, 0.001), (0.5, 0.2))  # the third is no clear difference
    over(checkpoints, "ece", (0.3, 0.001), (-0.02, 0.001), (-0.05, 0.001))
    over(checkpoints, "nll", (0.0, 0.9), (0.0, 0.9), (0.2, 0.001), scorer="probe")
    first, *rest = verdict(checkpoints)
    assert first == (
        "Of 3 adapters, step-2 is the most accurate; none clearly knows better than the base model when it is wrong; "
        "step-3 is the best calibrated, and step-1 is clearly worse than the base model."
    )
    assert any("asks for more than an interval without zero" in line for line in rest)
    assert "clearly better: step-1 and step-2." in rest[0]
    assert "best step-3 with" in rest[0]  # by its number, which says nothing clear
    assert any(line.startswith("NLL, probe: ") and "clearly worse: step-3" in line for line in rest)
    assert "None is clearly different from the base model in: NLL, own probability; AUROC, probe; ECE, probe." in rest
    assert any("is about step-3" in line for line in rest)
    shown = " ".join(printed(print_report, checkpoints).split())
    assert "over the adapters" in shown
    assert shown.count("]*") == 5  # two accuracies and three errors of calibration


def test_a_curve_goes_over_steps_and_joins_only_what_is_counted(checkpoints):
    names = list(checkpoints["model"]["adapters"])
    for name, step in zip(names, (300, 100, 200), strict=True):
        checkpoints["model"]["adapters"][name]["step"] = step
    (curve,) = [line for line in plots.over_adapters(checkpoints).lines if len(points(line)) == 3]
    values = [checkpoints["variants"][names[place]]["accuracy"]["all"]["value"] for place in (1, 2, 0)]
    np.testing.assert_allclose(points(curve), np.transpose([[100, 200, 300], values]))
    assert curve.get_linestyle() == "-"
    checkpoints["model"]["steps_from"] = "place"
    ax = plots.over_adapters(checkpoints, "auroc")
    assert {line.get_linestyle() for line in ax.lines if len(points(line)) == 3} == {"None"}
    assert [label.get_text() for label in ax.get_xticklabels()] == [names[1], names[2], names[0]]
    rows = re.findall(r'<th scope="row" class="name-cell">(step-\d)</th>', render_html(checkpoints))
    assert rows[:3] == [names[1], names[2], names[0]]
