from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest
from hypothesis import given

from tests.report.html_check import Seen
from tests.report.nights import HOSTILE, SHA, counts_of, night, slides_of_all_kinds, texts
from wsipipe.pictures.thumbnail import ClassArea, Picture, StoreSummary
from wsipipe.report.markup import element
from wsipipe.report.page import page, tone_of
from wsipipe.report.record import DONE, FAILED, OPEN, SET_ASIDE, SKIPPED, STATUSES, SlideReport
from wsipipe.report.words import amount, area, aside, duration, headline, in_a_line, shortened, shown, three_digits


def summary_of(text: str = "gland") -> StoreSummary:
    classes = (
        ClassArea(text, 7, "#ff8000", 1234, 0.0412, True, 0.125),
        ClassArea("fat", 9, "#0080ff", 99, None, False),
    )
    return StoreSummary(
        Picture(b"\xff\xd8 a picture", (240, 320)),
        Picture(b"\xff\xd8 the same, larger", (750, 1000)),
        classes,
        notes=(f"note {text}",),
        version="0.0.9",
        model=text,
        model_sha256=SHA,
        objects=counts_of(text),
        mpp=0.25,
        tissue_share=0.4,
    )


def page_of(text: str = "") -> str:
    report = night(*slides_of_all_kinds(text), host=text or "gpu-03", command=text or "wsipipe nightly", stopped=text)
    before = replace(report.summary, started="2026-11-23T22:00:00+00:00", host=text)
    return page(
        report,
        {0: summary_of(text or "gland"), 6: StoreSummary(notes=(text or "no picture",))},
        (before, report.summary),
    )


@given(texts)
def test_any_foreign_text_is_text_of_the_page_and_nothing_else(text: str) -> None:
    seen = Seen(page_of(text))
    seen.text.encode()
    plain = Seen(page_of("".join("\n" if c == "\n" else "x" for c in text)))
    assert [(name, list(attributes)) for name, attributes in seen.elements] == [
        (name, list(attributes)) for name, attributes in plain.elements
    ]
    for _, attributes in seen.elements:
        "".join(value or "" for value in attributes.values()).encode()
    if text:
        whole = shown(text)
        told = [inside for class_, inside in seen.texts if class_ == "text"]
        assert told.count(whole) >= 7  # messages, one of them in a list of notes, and the command
        for wanted in (f"/in/{whole}.tif", f"/out/{whole}.zarr", f"odd{whole}", f"note {whole}"):
            assert wanted in told
        assert f"Stopped early: {whole}" in seen.text


@pytest.mark.parametrize(
    ("found", "told"),
    [(StoreSummary(notes=("the store cannot be read",)), False), (replace(summary_of(), mpp=None), True)],
)
def test_of_a_store_that_cannot_be_read_the_resolution_is_not_told(found: StoreSummary, told: bool) -> None:
    report = night(SlideReport("/in/a.tif", DONE, store="/out/a.zarr"))
    assert ("resolution unknown" in Seen(page(report, {0: found}, ())).text) == told


@given(texts)
def test_what_is_shown_can_be_printed_and_says_what_was_there(text: str) -> None:
    visible = shown(text)
    assert visible.encode().decode() == visible
    assert "\r" not in visible
    assert not any("\ud800" <= c <= "\udfff" or "\u202a" <= c <= "\u202e" for c in visible)
    if text.isprintable():
        assert visible == text
    if "\\" not in text:
        raw = visible.encode("raw_unicode_escape").decode("raw_unicode_escape")
        assert re.sub(r"\\x([0-9a-f]{2})|\\r", lambda m: chr(int(m[1], 16)) if m[1] else "\r", raw) == text


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("a\x1b[31m\x00\x7f\x85.tif", "a\\x1b[31m\\x00\\x7f\\x85.tif"),
        ("two\nlines\tand\r", "two\nlines\tand\\r"),
        ("fdp\u202e.exe", "fdp\\u202e.exe"),
        ("caf\udce9", "caf\\udce9"),
        ("é 한글 🔬 \u0645\u06cc\u200c\u062e", "é 한글 🔬 \u0645\u06cc\u200c\u062e"),
    ],
)
def test_invisible_characters_are_shown_as_python_escapes(text: str, visible: str) -> None:
    assert shown(text) == visible


def test_page_loads_nothing_and_runs_nothing() -> None:
    source = page_of(HOSTILE[1])
    seen = Seen(source)
    assert not any(name in {"script", "iframe", "object", "form", "base", "embed"} for name, _ in seen.elements)
    for name, attributes in seen.elements:
        for attribute, value in attributes.items():
            assert not attribute.startswith("on")
            if attribute in {"src", "href"}:
                assert value is not None
                assert value.startswith(("data:image/", "#")), (name, value)
    assert "url(" not in source
    assert "@import" not in source


def test_policy_allows_the_style_of_the_page_by_its_hash_and_pictures_that_are_in_it() -> None:
    source = page_of()
    (policy,) = (a["content"] for _, a in Seen(source).elements if a.get("http-equiv") == "Content-Security-Policy")
    style = source.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"
    )
    assert source.index("Content-Security-Policy") < source.index("<style>")
    assert source.count("<style") == 1


def test_every_slide_has_its_status_and_its_facts() -> None:
    text = Seen(page_of()).text
    for number, status in enumerate(STATUSES, 1):
        assert f"1 {status}" in text, number
    for known in (
        "3.15 MP",
        "33% skipped, without tissue",
        "no tissue was found",
        "8.1 s",
        "0.388 MP/s",
        "bottleneck: network",
        "sha256 640fa0a2bc63…",
        "wsipipe 0.0.9",
        "nuclei",
        "0.25 µm/px",
        "tissue on 40% of the slide",
        "12.5%",
        "wsipipe view /out/case-1.zarr",
    ):
        assert known in text
    for message in (
        "case-2.tif is truncated",
        "case-3.tif has no mpp; give --mpp",
        "time was up",
        "it grows",
        "by gpu-04",
    ):
        assert message in text
    assert "0.0412 mm²" in text
    assert "≈ 99 px" in text
    assert "tried on 3 nights" in text


def test_objects_have_their_counts_and_a_histogram_with_equal_steps() -> None:
    seen = Seen(page_of())
    for known in ("gland: 7", "1,234", "15.0 µm²", "fat: 0", "areas of gland", "8.00 µm² to 22.6 µm², in steps of √2"):
        assert known in seen.text
    assert "areas of fat" not in seen.text
    bars = [attributes for name, attributes in seen.elements if name == "rect" and attributes.get("fill") == "#ff8000"]
    heights = [float(bar["height"] or 0) for bar in bars if bar.get("width") == "8"]
    assert heights == [75.0, 0.0, 100.0]


def test_pictures_have_a_text_and_tables_have_headers() -> None:
    seen = Seen(page_of())
    pictures = [attributes for name, attributes in seen.elements if name == "img"]
    for shown_one, made in zip(pictures, (summary_of().thumbnail, summary_of().large), strict=True):
        assert shown_one["src"] == "data:image/jpeg;base64," + base64.b64encode(made.jpeg).decode()
        assert shown_one["alt"] == "The slide case-1.tif, with its labels outlined: gland, fat"
        assert (shown_one["width"], shown_one["height"]) == (str(made.shape[1]), str(made.shape[0]))
    assert all(attributes.get("scope") in {"row", "col"} for name, attributes in seen.elements if name == "th")
    assert sum(name == "table" for name, _ in seen.elements) == 5  # areas, objects, waiting, taken, history
    assert [a.get("aria-label") for n, a in seen.elements if n == "svg" and a.get("role") == "img"] == [
        "Areas of gland, at most 4 in a bar",
        "Slides done and failed, night by night",
        "Speed, night by night",
    ]


def test_every_link_of_the_page_leads_somewhere() -> None:
    seen = Seen(page_of())
    targets = {attributes["id"] for _, attributes in seen.elements if "id" in attributes}
    links = {(attributes["href"] or "")[1:] for name, attributes in seen.elements if name == "a"}
    assert links == {"done", "failed", "set-aside", "open"}
    assert links <= targets
    assert len(targets) == sum("id" in attributes for _, attributes in seen.elements)


def test_what_needs_someone_stands_before_what_does_not() -> None:
    source = page_of()
    places = [source.index(f'id="{status.replace(" ", "-")}"') for status in (FAILED, SET_ASIDE, OPEN, DONE, SKIPPED)]
    assert places == sorted(places)


def test_slides_with_warnings_stand_before_those_without() -> None:
    slides = [SlideReport(f"/in/{i}.tif", DONE, warnings=("odd",) if i in (2, 4) else ()) for i in range(5)]
    source = page(night(*slides), {}, ())
    assert re.findall(r'title="/in/(\d).tif"', source) == ["2", "4", "0", "1", "3"]


def test_long_errors_are_folded_and_in_full() -> None:
    error = "first line\n" + "  File x.py\n" * 400
    source = page(night(SlideReport("a", FAILED, error)), {}, ())
    assert "<summary>first line</summary>" in source
    assert ("text", error) in Seen(source).texts


@pytest.mark.parametrize("nights", [0, 1, 2, 12, 31, 400])
def test_history_is_drawn_night_by_night(nights: int) -> None:
    report = night()
    history = [
        replace(report.summary, started=f"{2000 + i}-01-01T00:00:00+00:00", counts={DONE: i, FAILED: 1})
        for i in range(nights)
    ]
    seen = Seen(page(report, {}, history))
    bars = [attributes for name, attributes in seen.elements if name == "rect" and attributes["class"] == "bad"]
    assert len(bars) == (0 if nights < 2 else min(nights, 30))
    for bar in bars:
        assert 0 <= float(bar["y"] or "") <= 100
        assert float(bar["height"] or "") > 0


def test_an_empty_night_has_a_page() -> None:
    seen = Seen(page(night(), {}, (night().summary,)))
    assert "0 done" in seen.text
    assert "8 h 12 min" in seen.text


@pytest.mark.parametrize(
    ("statuses", "changes", "tone"),
    [
        ([], {}, "good"),
        ([DONE, SKIPPED], {}, "good"),
        ([DONE, SET_ASIDE], {}, "warn"),
        ([OPEN], {}, "warn"),
        ([DONE], {"stopped": "the window closed"}, "warn"),
        ([DONE, FAILED], {}, "bad"),
        ([DONE], {"exit_code": 3}, "bad"),
    ],
)
def test_tone_says_whether_someone_has_to_act(statuses: list[str], changes: dict[str, object], tone: str) -> None:
    report = night(*(SlideReport(status, status) for status in statuses), **changes)
    assert tone_of(report) == tone
    assert f'<header class="{tone}">' in page(report, {}, ())


def test_headline_says_what_matters() -> None:
    slides = [SlideReport("a", DONE)] * 38 + [
        SlideReport("a", FAILED),
        SlideReport("a", SET_ASIDE),
        SlideReport("a", SKIPPED),
    ]
    assert headline(night(*slides)) == "38 done, 1 failed, 1 set aside"
    assert aside(night(*slides)) == "1 skipped (done before)"
    assert headline(night()) == "0 done"
    warned = SlideReport("a", DONE, warnings=("odd",))
    assert (
        in_a_line(night(*slides, warned))
        == "39 done, 1 failed, 1 set aside; 1 skipped (done before), 1 slide with warnings"
    )
    assert in_a_line(night(warned)) == "1 done; 1 slide with warnings"
    assert in_a_line(night()) == "0 done"
    assert aside(night()) == ""


def test_elements_escape_what_they_are_given() -> None:
    made = element("p", "<b>&\"'", None, element("img", alt='"<', width=3), class_="a b", aria_label=None)
    assert made.source == '<p class="a b">&lt;b&gt;&amp;&quot;&#x27;<img alt="&quot;&lt;" width="3"></p>'


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (8.14, "8.1 s"),
        (59.96, "1 min 0 s"),
        (725, "12 min 5 s"),
        (3599.9, "1 h 0 min"),
        (29520, "8 h 12 min"),
        (float("nan"), "unknown"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_numbers_have_three_significant_digits() -> None:
    assert [three_digits(n) for n in (0, 0.00412, 0.0412, 3.1457, 99.96, 123.4, 12345.6)] == [
        "0", "0.00412", "0.0412", "3.15", "100", "123", "12,346",
    ]  # fmt: skip
    assert [amount(n) for n in (0, 3_145_728, 12.3e9, 4e12)] == ["0 MP", "3.15 MP", "12.3 GP", "4.00 TP"]
    assert [area(n) for n in (0, 0.125, 6.2e-8, 1234.5)] == ["0 mm²", "0.125 mm²", "0.0620 µm²", "1,234 mm²"]


def test_long_names_keep_their_ends() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("abcdefghij", 7) == "abcd…ij"
    assert len(shortened("x" * 5000, 90)) == 90
