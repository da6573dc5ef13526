"""The page as a browser shows it; skipped where there is no Chromium."""

import json

import pytest
from browser import NAMES, find_browser, open_page
from report_facts import render, some_ablation, some_facts, some_scores

from schemas.tasks import PROPENSITY, TASKS

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"needs a browser on PATH: one of {', '.join(NAMES)}")

ROWS = """[...document.querySelectorAll("#%s tbody tr")].map(
    row => [...row.cells].map(cell => cell.innerText.replace(/\\s+/g, " ").trim()))"""
OVERFLOWING = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
UNSEEN = """[...document.querySelectorAll("figure svg")].filter(
    svg => svg.getBoundingClientRect().width < 200 || svg.getBoundingClientRect().height < 80).length"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run scored with repeats, its ``scores.json``, and its page in a browser."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "scores.json").write_text(json.dumps(some_scores(n_repeats=3)))
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "report.html").write_text(render(some_facts(scores=scores, ablation=some_ablation(3))))
    with open_page(PROGRAM, folder / "report.html", folder / "profile") as page:
        page.emulate(1280)
        yield scores, page


def table(page, name: str) -> dict[str, list[str]]:
    """First cell of each row -> the others, as they are shown."""
    return {first: others for first, *others in page.evaluate(ROWS % name)}


def numbers(cells: list[str]) -> list[float]:
    """The first number of each cell."""
    return [float(cell.split()[0]) for cell in cells]


def test_the_page_asks_for_nothing_and_complains_of_nothing(run):
    _, page = run
    assert [url for url in page.requests if not url.startswith("data:")] == [page.evaluate("location.href")]
    assert page.problems == []


def test_the_score_table_shows_the_numbers_of_scores_json(run):
    scores, page = run
    shown = table(page, "score-table")
    assert list(shown) == list(scores)
    for entry, cells in shown.items():
        results = [scores[entry][task] for task in TASKS]
        assert numbers(cells[:6]) == [result["score"] for result in results], entry
        assert [cell.split()[-3:] for cell in cells[:6]] == [
            [f"{result['mean']:.4f}", "±", f"{result['std']:.4f}"] for result in results
        ]
        assert numbers(cells[6:7]) == [pytest.approx(sum(result["score"] for result in results), abs=5e-5)]


def test_the_best_of_each_column_and_only_it_is_marked(run):
    scores, page = run
    best = page.evaluate('[...document.querySelectorAll("#score-table td.best")].map(cell => cell.innerText)')
    highest = [max(by_task[task]["score"] for by_task in scores.values()) for task in TASKS]
    assert numbers(best)[:6] == highest


def test_the_details_show_the_numbers_of_scores_json(run):
    scores, page = run
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    shown = table(page, "detail-table")
    assert list(shown) == list(scores)
    for entry, cells in shown.items():
        figures = [scores[entry][task][figure] for task in PROPENSITY for figure in ("auroc", "novelty", "diversity")]
        assert numbers(cells) == figures, entry


def test_the_ranking_follows_the_borda_points(run):
    scores, page = run
    rows = page.evaluate(ROWS % "ranking-table")
    entries = list(scores)
    # each entry is above the one before it on all six tasks
    assert [row[:3] for row in rows] == [
        [str(1 + place), entry, str(6 * (len(entries) - 1 - place))] for place, entry in enumerate(reversed(entries))
    ]


def test_the_ablation_shows_the_blocks_alone_and_what_their_loss_changes(run):
    _, page = run
    variants = {(each["kind"], each["block"]): each["scores"] for each in some_ablation(3)["variants"]}
    alone, without = table(page, "alone-table"), table(page, "without-table")
    assert list(alone) == ["product_buy", "baseline", "all blocks"]
    assert [cells[-1] for cells in alone.values()] == ["1,234.5 s", "", ""]
    for block in ("product_buy", "baseline"):
        assert numbers(alone[block][:6]) == [variants["only", block][task]["score"] for task in TASKS]
        changes = [variants["without", block][t]["mean"] - variants["all", None][t]["mean"] for t in TASKS]
        shown = numbers([cell.replace("\N{MINUS SIGN}", "-") for cell in without[block]])
        assert shown == pytest.approx([*changes, sum(changes)], abs=5e-5)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off_in_a_window_of_a_desk_or_a_telephone(run, width: int, scheme: str):
    _, page = run
    page.emulate(width, scheme=scheme)
    assert not page.evaluate(OVERFLOWING)
    assert page.evaluate("document.querySelectorAll('figure svg').length") == 15
    assert page.evaluate(UNSEEN) == 0


def test_the_dark_theme_turns_page_and_figures_and_paper_stays_white(run):
    _, page = run
    ground = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.querySelector('figure text')).fill"
    shown = {}
    for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
        page.emulate(1280, scheme=scheme, media=media)
        shown[scheme, media] = (page.evaluate(ground), page.evaluate(text))
    assert shown["light", ""] == shown["dark", "print"] != shown["dark", ""]
    assert shown["light", ""][0] == "rgb(255, 255, 255)"
    assert shown["light", ""][1] != shown["dark", ""][1]
