import json
import math
import re

import numpy as np
import pytest
from support.html import Elements, external_references
from support.runs import write_run

from fluxcore.report import build, provenance
from fluxcore.report.figures import largest_groups
from fluxcore.report.heat import Piece, ScoredText
from fluxcore.report.page import format_count, format_duration
from fluxcore.report.runs import read_run
from fluxcore.report.theme import COLOURS, SERIES


@pytest.fixture
def runs(tmp_path):
    return [
        read_run(
            write_run(tmp_path / order, order=order, validation=losses, scores=[1.0, 2.0, 3.0], model="<b>micro</b>")
        )
        for order, losses in {"random": [5.0, 4.0, 3.5], "ascending": [5.0, 4.2, 3.6]}.items()
    ]


SCORES = {"web": np.linspace(1, 3, 50, dtype=np.float32), "code": np.linspace(0, 2, 20, dtype=np.float32)}
FACTS = {"command": "fluxcore report a b"}


def page_of(runs, folder, **options):
    files = build(runs, folder, score_name="lm.entropy_mean", scores=SCORES, facts=FACTS, **options)
    return files, files.page.read_text()


def test_the_page_needs_nothing_but_itself(runs, tmp_path):
    _, html = page_of(runs, tmp_path / "out")
    assert external_references(html) == []
    assert re.findall(r"https?:", html) == []
    assert {"script", "link", "img", "iframe"} & set(Elements(html).tags) == set()


def test_ids_are_unique_and_every_reference_within_the_page_leads_somewhere(runs, tmp_path):
    _, html = page_of(runs, tmp_path / "out")
    elements = Elements(html)
    assert len(set(elements.ids)) == len(elements.ids)
    pointed = {v[1:] for n, v in elements.attributes if n == "href"} | set(re.findall(r"url\(#([^)]*)\)", html))
    for name, value in elements.attributes:
        if name in ("aria-labelledby", "aria-describedby"):
            pointed |= set(value.split())
    assert pointed <= set(elements.ids)


def test_every_figure_is_inline_and_a_png(runs, tmp_path):
    files, html = page_of(runs, tmp_path / "out")
    assert [path.name for path in files.figures] == ["loss.png", "fed.png", "distribution.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n") and path.stat().st_size > 5000 for path in files.figures)
    assert Elements(html).tags.count("svg") == 3


def test_figures_take_their_colours_from_the_page(runs, tmp_path):
    _, html = page_of(runs, tmp_path / "out")
    figures = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--series-0)" in figures
    assert all(colour.light not in figures for colour in COLOURS.values())


def test_the_page_is_the_same_each_time(runs, tmp_path):
    assert page_of(runs, tmp_path / "a")[1] == page_of(runs, tmp_path / "b")[1]


def test_text_is_coloured_and_escaped(runs, tmp_path):
    pieces = [Piece("<script>", math.nan), Piece("alert(1)", 2.5), Piece("&", 0.1)]
    text = ScoredText("lowest", 7, "web", "a<b>.html", 1.25, pieces)
    _, html = page_of(runs, tmp_path / "out", texts=[text])
    assert '&lt;script&gt;<span class="h2" title="2.50 nats">alert(1)</span>' in html
    assert "a&lt;b&gt;.html" in html
    assert "<script" not in html
    assert "&lt;b&gt;micro" in html  # a config value


def test_the_summary_shows_what_the_runs_measured(runs, tmp_path):
    _, html = page_of(runs, tmp_path / "out")
    text = " ".join(re.sub(r"<[^>]+>", " ", html[html.index("<header") :]).split())
    assert "random 1 3 k 3.5000" in text
    assert "ascending 1 3 k 3.6000 3 k 500 6 s" in text
    assert "0.1000 higher than random order" in text
    assert FACTS["command"] in text


def test_runs_that_differ_in_more_than_the_order_are_called_out(runs, tmp_path):
    assert "These runs are not alike" not in page_of(runs, tmp_path / "alike")[1]
    other = read_run(write_run(tmp_path / "other", order="descending", validation=[5.0], model="<b>micro</b>", lr=1))
    assert "they differ in lr," in page_of([*runs, other], tmp_path / "unlike")[1]


def test_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        build([], tmp_path, score_name="x", scores=SCORES)


def test_more_orders_and_sources_than_colours(tmp_path):
    runs = [read_run(write_run(tmp_path / f"{i}", order=f"order{i}", validation=[5.0, 4.0])) for i in range(SERIES + 2)]
    sources = {f"source{i}": np.full(i, 1.0, np.float32) for i in range(SERIES + 3)}
    files = build(runs, tmp_path / "out", score_name="x", scores=sources, facts=FACTS)
    assert all(run.order in files.page.read_text() for run in runs)
    groups = largest_groups(sources)
    assert len(groups) == SERIES
    assert sum(len(values) for values in groups.values()) == sum(range(SERIES + 3))
    assert list(groups)[-1] == "3 others"  # the empty source is left out


def contrast(a, b):
    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_from_the_ground(theme):
    colour = {role: getattr(pair, theme) for role, pair in COLOURS.items()}
    for role in ("ink", "quiet", *(f"series-{i}" for i in range(SERIES))):
        assert contrast(colour[role], colour["ground"]) >= 4.5, role
    assert contrast(colour["ink"], colour["heat"]) >= 4.5


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (812, "812"), (65_536, "65.5\u202fk"), (1_310_720, "1.31\u202fM"), (math.nan, "–")]
)
def test_counts(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(41.2, "41 s"), (59.7, "1 min 00 s"), (125, "2 min 05 s"), (math.nan, "–")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_a_run_that_diverged_is_drawn(tmp_path):
    losses = {"random": [5.0, 4.0], "ascending": [5.0, math.nan], "descending": [math.nan, math.nan]}
    runs = [read_run(write_run(tmp_path / order, order=order, validation=each)) for order, each in losses.items()]
    files, html = page_of(runs, tmp_path / "out")
    assert "its training diverged" in html
    assert len(files.figures) == 2


def test_the_page_says_how_the_runs_were_made(runs, tmp_path):
    environment = {"commit": "abc123", "versions": {"torch": "2.0"}, "python": "3.11"}
    (runs[0].folder / "environment.json").write_text(json.dumps(environment))
    made = provenance.facts([read_run(runs[0].folder), runs[1]], "fluxcore demo")
    assert made["command"] == "fluxcore demo"
    assert made["trained at commit"] == "abc123"
    assert made["trained with"] == "Python 3.11, torch 2.0"
