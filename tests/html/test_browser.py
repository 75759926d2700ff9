"""The page in a real browser: sorted, filtered, clicked, with hostile names and with many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmemleak_core import Report
from kmemleak_core.report import ReportSource

from ..test_report_formats import a_report
from .browser import Browser, browser, find_chromium
from .made import SECRET, made
from .pictures import take
from .test_page import NASTY

GROUPS = 60
#: The text of one column of the rows that are shown, from top to bottom.
COLUMN = "[...document.querySelectorAll('#rows tr.group')].map(r => r.cells[{}].textContent)"
FREED, BYTES, OBJECTS, SIZE, TYPE, EXAMPLE = 1, 2, 3, 5, 6, 8


#: Every piece of text, its colour, and the colour behind it.
COLOURS = """
(() => {
  const found = [];
  const walk = document.createTreeWalker(document.querySelector(".page"), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data.trim(), holder = walk.currentNode.parentElement;
    if (!text || !holder.getClientRects().length || holder.closest(":disabled, option")) continue;
    const tile = holder.closest(".tile");
    const fore = getComputedStyle(holder)[tile ? "fill" : "color"];
    let back = tile && getComputedStyle(tile.querySelector("rect")).fill;
    for (let e = holder; !back && e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") back = colour;
    }
    found.push([text, fore, back]);
  }
  return found;
})()
"""


def contrast(fore: str, back: str) -> float:
    """Return the contrast of two colours, ``"rgb(1, 2, 3)"``, from 1 to 21."""

    def luminance(colour: str) -> float:
        shares = [int(n) / 255 for n in re.findall(r"[0-9]+", colour)[:3]]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(fore), luminance(back)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with browser(program) as opened:
        opened.resize(1280, 1600)
        yield opened


@pytest.fixture(scope="module")
def report() -> Report:
    return made(4000, GROUPS)


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("html") / "report.html"
    path.write_text(report.report("html"), encoding="ascii")
    return path


@pytest.fixture
def opened(chromium: Browser, written: Path) -> Iterator[Browser]:
    """The browser with the usual page, freshly loaded; whatever a test does, it is content."""
    chromium.prefer("light")
    chromium.open(written)
    yield chromium
    assert chromium.complaints == []
    assert chromium.requests == [written.as_uri()]
    assert chromium.dialogs == []


def show(chromium: Browser, report: Report, folder: Path, **options: object) -> None:
    path = folder / "report.html"
    path.write_text(report.report("html", **options), encoding="ascii")
    chromium.open(path)


def column(page: Browser, number: int) -> list[str]:
    return list(page.run(COLUMN.format(number)))


def count(page: Browser, selector: str) -> int:
    return int(page.run(f"document.querySelectorAll({selector!r}).length"))


def text(page: Browser, selector: str) -> str:
    return str(page.run(f"document.querySelector({selector!r}).textContent"))


def sorted_by(page: Browser) -> list[tuple[str, str]]:
    """Return the columns that say that the table is sorted by them, and how."""
    return [
        (name, how)
        for name, how in page.run(
            "[...document.querySelectorAll('#table th')].map(h => [h.dataset.key, h.ariaSort])"
        )
        if how != "none"
    ]


class TestTable:
    def test_it_shows_a_page_of_groups(self, opened: Browser) -> None:
        assert count(opened, "#rows tr.group") == 50
        assert text(opened, "#count").startswith("60 groups: 4,000 objects, 256.0 kB")
        assert text(opened, "#place") == "Page 1 of 2"
        assert sorted_by(opened) == [("freed", "descending")]

    def test_the_next_page_has_the_rest(self, opened: Browser) -> None:
        first = column(opened, TYPE)
        opened.click("#next")
        assert count(opened, "#rows tr.group") == GROUPS - 50
        assert not set(first) & set(column(opened, TYPE))
        assert opened.run("document.getElementById('next').disabled")

    def test_a_click_on_a_header_sorts_by_it(self, opened: Browser) -> None:
        opened.click("th[data-key=objects] button")
        counts = [int(n) for n in column(opened, OBJECTS)]
        assert counts == sorted(counts, reverse=True)
        assert sorted_by(opened) == [("objects", "descending")]

    def test_a_second_click_turns_the_order_around(self, opened: Browser) -> None:
        opened.click("th[data-key=kind] button")
        assert sorted_by(opened) == [("kind", "ascending")]
        names = [name.split()[0] for name in column(opened, TYPE)]
        assert names == sorted(f"type_{i}" for i in range(GROUPS))[:50]
        opened.click("th[data-key=kind] button")
        assert sorted_by(opened) == [("kind", "descending")]
        names = [name.split()[0] for name in column(opened, TYPE)]
        assert names == sorted((f"type_{i}" for i in range(GROUPS)), reverse=True)[:50]

    def test_addresses_sort_as_numbers(self, opened: Browser) -> None:
        opened.click("th[data-key=example] button")
        addresses = [int(address, 16) for address in column(opened, EXAMPLE)]
        assert addresses == sorted(addresses)

    @pytest.mark.parametrize(
        ("typed", "shown"),
        [("TYPE_17", 1), ("function_1017+", 1), ("module_4 type_5", 3), ("no such thing", 0)],
    )
    def test_the_filter_looks_into_types_and_frames(
        self, opened: Browser, report: Report, typed: str, shown: int
    ) -> None:
        opened.type("#filter", typed)
        words = typed.lower().split()
        told = ["\n".join((g.origin.kind, *g.origin.frames)) for g in report.groups]
        assert count(opened, "#rows tr.group") == sum(all(w in t for w in words) for t in told)
        assert (count(opened, "#rows tr.group") > 0) == (shown > 0)

    def test_the_filter_finds_an_address(self, opened: Browser, report: Report) -> None:
        opened.type("#filter", f"{report.groups[7].example:#x}")
        assert column(opened, EXAMPLE) == [f"{report.groups[7].example:#x}"]

    def test_small_groups_can_be_left_out(self, opened: Browser, report: Report) -> None:
        opened.type("#least", "4.2K")
        wanted = sum(g.nbytes >= 4.2 * 1024 for g in report.groups)
        assert text(opened, "#count").startswith(f"{wanted} of {GROUPS} groups")
        assert 0 < wanted < GROUPS

    def test_what_is_no_size_is_marked(self, opened: Browser) -> None:
        opened.type("#least", "many")
        assert opened.run("document.getElementById('least').ariaInvalid") == "true"
        assert text(opened, "#count").startswith("60 groups")

    def test_reset_shows_all_again_as_reported(self, opened: Browser) -> None:
        opened.click("th[data-key=kind] button")
        opened.type("#filter", "type_17")
        opened.click("#clear")
        opened.run("new Promise(done => setTimeout(done, 20))")
        assert text(opened, "#count").startswith("60 groups")
        assert sorted_by(opened) == [("freed", "descending")]


class TestDetails:
    def test_a_click_on_a_row_opens_it(self, opened: Browser, report: Report) -> None:
        opened.click("#rows tr.group:nth-child(3) td.type")
        told = text(opened, "tr.details")
        group = report.groups[2]
        for frame in group.origin.frames:
            assert frame in told
        assert group.origin.kind in told
        assert "top secr" in told
        assert f"kmemleak explain core {group.example:#x}" in told
        assert opened.run("document.querySelectorAll('.toggle[aria-expanded=true]').length") == 1
        opened.click("#rows tr.group:nth-child(3) td.type")
        assert count(opened, "tr.details") == 0

    def test_the_keyboard_does_too(self, opened: Browser) -> None:
        opened.run("document.querySelector('#rows button.toggle').focus()")
        opened.press("Enter")
        assert count(opened, "tr.details") == 1
        assert opened.run("document.activeElement.className") == "toggle"
        opened.press(" ")
        assert count(opened, "tr.details") == 0

    def test_a_reference_leads_to_the_other_group(self, opened: Browser) -> None:
        opened.click("#rows tr.group td.type")
        name = text(opened, "tr.details .links button")
        opened.click("tr.details .links button")
        row = "document.activeElement.closest('tr')"
        assert opened.run(f"{row}.querySelector('b').textContent") == name
        assert opened.run(f"{row}.nextSibling.className") == "details"


class TestCluster:
    def open_largest(self, page: Browser) -> None:
        row = page.run(
            "JSON.parse(document.getElementById('data').textContent).parts[0].clusters"
            ".find(c => c.more).group"
        )
        page.click(f"tr[data-row='{row}'] td.type")
        page.click("button.draw")

    def test_a_click_draws_it(self, opened: Browser) -> None:
        self.open_largest(opened)
        assert count(opened, "svg.cluster .node") == 200
        assert count(opened, "svg.cluster .edge") == 199
        assert "800 more objects left out" in text(opened, "figcaption")

    def test_members_lie_apart_and_inside(self, opened: Browser) -> None:
        self.open_largest(opened)
        places = opened.run(
            "[...document.querySelectorAll('svg.cluster circle')].map(c => {"
            "const r = c.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2];"
            "})"
        )
        box = opened.run(
            "(() => { const r = document.querySelector('svg.cluster').getBoundingClientRect();"
            "return [r.left, r.top, r.right, r.bottom]; })()"
        )
        assert len({(round(x), round(y)) for x, y in places}) > 190
        assert all(box[0] < x < box[2] and box[1] < y < box[3] for x, y in places)

    def test_a_member_tells_what_it_is(self, opened: Browser, report: Report) -> None:
        self.open_largest(opened)
        opened.click("svg.cluster .node:nth-of-type(6)")
        label = opened.run("document.querySelector('.node.chosen').ariaLabel")
        address = int(label.split(",")[0], 16)
        (row,) = (report.leaks["address"] == address).nonzero()[0].tolist()
        told = text(opened, ".about")
        assert f"{address:#x}" in told
        assert "64 bytes" in told
        assert report.groups[report.leaks[row].group].origin.kind in told

    def test_arrow_keys_go_through_the_members(self, opened: Browser) -> None:
        self.open_largest(opened)
        opened.run("document.querySelector('svg.cluster .node').focus()")
        opened.press("ArrowRight")
        opened.press("ArrowRight")
        nodes = "[...document.querySelectorAll('svg.cluster .node')]"
        assert opened.run(f"{nodes}.indexOf(document.activeElement)") == 2

    def test_a_second_click_takes_it_away(self, opened: Browser) -> None:
        self.open_largest(opened)
        opened.click("button.draw")
        assert count(opened, "svg.cluster") == 0


class TestTreemap:
    def test_a_tile_is_as_large_as_what_a_fix_frees(self, opened: Browser, report: Report) -> None:
        areas = opened.run(
            "[...document.querySelectorAll('.tile[data-row]')].map(t => {"
            "const r = t.querySelector('rect');"
            "return (+r.getAttribute('width') + 2) * (+r.getAttribute('height') + 2); })"
        )
        freed = sorted((g.direct_bytes + g.retained_bytes for g in report.groups), reverse=True)
        freed = [nbytes for nbytes in freed if nbytes]
        assert len(areas) == len(freed)
        assert [a / sum(areas) for a in areas] == pytest.approx([f / sum(freed) for f in freed])

    def test_a_click_opens_its_group(self, opened: Browser) -> None:
        opened.type("#filter", "no such thing")
        opened.click(".tile[data-row='3'] rect")
        assert count(opened, "tr.details") == 1
        assert opened.run("document.activeElement.closest('tr').dataset.row") == "3"

    def test_the_keyboard_does_too(self, opened: Browser) -> None:
        opened.run("document.querySelector('.tile[tabindex=\"0\"]').focus()")
        opened.press("ArrowRight")
        opened.press("Enter")
        assert opened.run("document.activeElement.closest('tr').dataset.row") == "1"


class TestLook:
    BACK = "getComputedStyle(document.body).backgroundColor"

    def test_it_follows_the_system(self, opened: Browser) -> None:
        light = opened.run(self.BACK)
        opened.prefer("dark")
        assert opened.run(self.BACK) != light

    def test_a_click_turns_it_dark_and_light_again(self, opened: Browser) -> None:
        light = opened.run(self.BACK)
        opened.click("#theme")
        assert opened.run(self.BACK) != light
        assert text(opened, "#theme") == "Light"
        opened.click("#theme")
        assert opened.run(self.BACK) == light

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out_from_what_is_behind_it(self, opened: Browser, scheme: str) -> None:
        opened.prefer(scheme)
        opened.click("#rows tr.group td.type")
        pairs = opened.run(COLOURS)
        assert len(pairs) > 100
        # What the guidelines for accessible content ask for (WCAG 2.2, 1.4.3).
        assert [text for text, fore, back in pairs if contrast(fore, back) < 4.5] == []

    def test_a_narrow_window_scrolls_down_only(self, opened: Browser) -> None:
        opened.resize(400, 800)
        opened.click("#rows tr.group td.toggle")
        assert opened.run("document.documentElement.scrollWidth") <= 400
        opened.resize(1280, 1600)

    def test_everything_to_click_has_a_name(self, opened: Browser) -> None:
        opened.click("#rows tr.group td.type")
        nameless = opened.run(
            "[...document.querySelectorAll('button, input, select, [role=button]')].filter(e =>"
            "!(e.ariaLabel || e.textContent.trim() || e.labels?.length)).length"
        )
        assert nameless == 0


class TestHostileNames:
    @pytest.fixture
    def hostile(self, chromium: Browser, tmp_path: Path) -> Browser:
        source = ReportSource(path=NASTY, process={"name": NASTY, "arguments": NASTY})
        show(chromium, made(40, 4, names=NASTY, source=source), tmp_path)
        return chromium

    def test_they_are_shown_and_do_nothing(self, hostile: Browser) -> None:
        hostile.click("#rows tr.group td.type")
        hostile.run("document.querySelectorAll('button.draw').forEach(b => b.click())")
        assert count(hostile, "img") == 0
        assert count(hostile, "script") == 2
        assert "</script><img src=x onerror" in text(hostile, "#rows")
        assert (hostile.dialogs, hostile.complaints) == ([], [])
        assert len(hostile.requests) == 1

    def test_a_script_that_got_in_would_not_run(self, hostile: Browser) -> None:
        hostile.run(
            "document.body.insertAdjacentHTML('beforeend',"
            '\'<img src=x onerror="alert(1)"><p style="color: red">\')'
        )
        hostile.run(
            "document.body.append(Object.assign(document.createElement('script'),"
            "{textContent: 'alert(2)'}))"
        )
        hostile.run("new Promise(done => setTimeout(done, 100))")
        assert hostile.dialogs == []
        assert len(hostile.requests) == 1
        # The policy says so, to whoever looks at the console.
        assert any("Content Security Policy" in said for said in hostile.complaints)


def test_ten_thousand_groups_can_be_used(
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmemleak_core.leak_groups.MAX_GROUPS", 20_000)
    show(chromium, made(40_000, 10_000), tmp_path)
    assert text(chromium, "#count").startswith("10,000 groups")
    assert count(chromium, "#rows tr") == 50  # only these are elements
    chromium.type("#filter", "type_99")
    assert count(chromium, "#rows tr.group") == 50
    assert text(chromium, "#count").startswith("111 of 10,000 groups")
    chromium.click("th[data-key=kind] button")
    assert column(chromium, TYPE)[0].startswith("type_99 ")
    assert chromium.complaints == []


def test_what_is_possibly_lost_can_be_shown_alone(chromium: Browser, tmp_path: Path) -> None:
    show(chromium, made(3000, 40, possible=10), tmp_path)
    assert "2,960 objects, 189.4 kB; 40 objects, 2.6 kB possibly lost" in text(chromium, "#count")
    chromium.run(
        "(() => { const e = document.getElementById('kind'); e.value = 'possible';"
        "e.dispatchEvent(new Event('change')); })()"
    )
    assert count(chromium, "#rows tr.group") == 10
    chromium.click("#rows tr.group td.type")
    assert "only pointers into the middle hold it" in text(chromium, "tr.details")
    chromium.click("button.draw")
    assert count(chromium, "svg.cluster .node") == 4
    assert chromium.complaints == []


def test_redacted_it_shows_no_content(chromium: Browser, tmp_path: Path) -> None:
    show(chromium, made(40, 4), tmp_path, redact=True)
    chromium.click("#rows tr.group td.type")
    assert SECRET.decode() not in chromium.run("document.body.innerText")
    assert count(chromium, "pre.hex") == 0
    assert chromium.complaints == []


def test_without_leaks_there_is_no_table(chromium: Browser, tmp_path: Path) -> None:
    report = a_report()
    empty = report.leaks[:0]
    summary = report.summary.without(report.leaks, empty, report.possible)
    show(chromium, a_report(leaks=empty, groups=(), summary=summary), tmp_path)
    assert chromium.run("document.getElementById('groups').hidden")
    assert chromium.run("document.getElementById('map').hidden")
    assert chromium.complaints == []


def test_pictures_for_the_documentation_can_be_taken(
    chromium: Browser, report: Report, tmp_path: Path
) -> None:
    taken = take(chromium, report, tmp_path)
    assert [path.name for path in taken] == ["report-light.png", "report-dark.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in taken)
    assert all(path.stat().st_size < 200_000 for path in taken)
    assert chromium.complaints == []
