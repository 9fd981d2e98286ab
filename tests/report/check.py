"""Checks a report in headless Chromium: console errors, network, width on a phone, filters, time, and texts that look like HTML.

    python3 -m venv /tmp/report && /tmp/report/bin/pip install -r tests/report/requirements.txt
    /tmp/report/bin/playwright install chromium-headless-shell      # or CHROMIUM=/usr/bin/chromium
    /tmp/report/bin/python tests/report/check.py REPORT.html [--shots FOLDER]

Exit status: 0 all checks pass, 1 some fail, 77 skipped because there is no browser.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

SKIPPED = 77
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    parser.add_argument("--most-ms", type=float, default=1000, help="longest time that any filter may take; an idle machine takes a tenth of it")
    return parser.parse_args()


def check(failures, holds, what):
    print(("ok    " if holds else "FAULT ") + what)
    if not holds:
        failures.append(what)


def look(browser, path, name, theme, shots, most_ms, failures):
    width, height = WIDTHS[name]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
    said, asked = [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    start = time.monotonic()
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("#list .card")
    opened = (time.monotonic() - start) * 1000
    label = f"{name}, {theme}"
    check(failures, opened < 5000, f"{label}: opens in {opened:.0f} ms")
    outside = [url for url in asked if not url.startswith(("file:", "data:"))]
    check(failures, not outside, f"{label}: asks no network {outside[:2]}")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    check(failures, wide <= 0, f"{label}: nothing is wider than the page ({wide} px)")
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=shots / f"{name}-{theme}-top.png")
        page.evaluate("document.getElementById('scores').scrollIntoView()")
        page.wait_for_timeout(700)
        page.screenshot(path=shots / f"{name}-{theme}-scores.png")
        page.evaluate("document.getElementById('rationales').scrollIntoView()")
        page.wait_for_timeout(700)
        page.screenshot(path=shots / f"{name}-{theme}-rationales.png")
        page.screenshot(path=shots / f"{name}-{theme}-whole.png", full_page=True)
    use(page, label, most_ms, failures)
    if shots and page.locator("#list .columns").count():
        page.check("#labels [name=on]")
        page.fill("#list input.own >> nth=0", "0.5")
        page.evaluate("document.getElementById('rationales').scrollIntoView()")
        page.wait_for_timeout(300)
        page.screenshot(path=shots / f"{name}-{theme}-labels.png")
    check(failures, not said, f"{label}: console is silent {said[:3]}")
    page.close()


def use(page, label, most_ms, failures):
    """Clicks every control and measures its response time."""
    cards = json.loads(page.text_content("#cards"))
    count = lambda: int(re.match(r"([\d,]+)", page.text_content("#found"))[1].replace(",", ""))
    check(failures, count() == len(cards), f"{label}: shows all {len(cards)} problems at first")
    slowest = 0

    def set_to(name, value):
        nonlocal slowest
        # The page's own clock, from the event to the drawn list.
        took = page.evaluate(
            """async ([name, value]) => {
                const field = document.getElementById('filters').elements[name];
                const start = performance.now();
                if (field.type === 'checkbox') field.checked = value; else field.value = value;
                field.dispatchEvent(new Event('input', {bubbles: true}));
                await new Promise(requestAnimationFrame);
                return performance.now() - start;
            }""",
            [name, value],
        )
        slowest = max(slowest, took)
        return count()

    def reset():
        page.click("#filters button[type=reset]")
        # Waiting by playwright's own poll would need eval, which the page forbids.
        for _ in range(100):
            if count() == len(cards):
                return
            page.wait_for_timeout(20)
        check(failures, False, f"{label}: reset shows all problems")

    for name in ["split", "subject", "skill"]:
        values = sorted({card.get(name) for card in cards} - {None})
        for value in values[:3]:
            expected = sum(card.get(name) == value for card in cards)
            check(failures, set_to(name, value) == expected, f"{label}: {name} {value} shows {expected}")
        reset()
    expected = sum("mean" in card and card["mean"] <= 0.5 + 1e-9 for card in cards)
    check(failures, set_to("high", "0.5") == expected, f"{label}: mean score up to 0.5 shows {expected}")
    reset()
    changed = sum(any(said.get("changed") is True for said in card["said"]) for card in cards)
    if changed:
        check(failures, set_to("changed", "yes") == changed, f"{label}: changed corrections show {changed}")
        reset()
    rejected = sum("rejects" in card for card in cards)
    if rejected:
        check(failures, set_to("rejected", True) == rejected, f"{label}: rejected shows {rejected}")
        reset()
    wanted = cards[len(cards) // 2]["id"]
    expected = set_to("text", wanted)
    shown = page.eval_on_selector_all("#list .card > h3 b", "all => all.map(one => one.textContent)")
    check(failures, expected >= 1 and any(wanted in text for text in shown), f"{label}: search finds {wanted}")
    check(failures, set_to("text", "no such words anywhere") == 0, f"{label}: search for nothing shows nothing")
    reset()
    means = [card["mean"] for card in cards if "mean" in card]
    if means:
        for sort, end in [("worst", min(means)), ("best", max(means))]:
            set_to("sort", sort)
            first = page.text_content("#list .card > h3")
            check(failures, f"mean score {end:.2f}" in first, f"{label}: {sort} first begins with {end:.2f}")
        reset()
    if len(cards) > 20:
        page.click("#next")
        check(failures, "page 2" in page.text_content("#place"), f"{label}: turns the page")
        page.click("#previous")
    pictures = [card for card in cards if "picture" in card]
    if pictures:
        set_to("text", pictures[0]["id"])
        page.wait_for_timeout(100)
        drawn = page.eval_on_selector_all("#list img", "all => all.every(one => one.complete && one.naturalWidth > 0)")
        check(failures, drawn, f"{label}: pictures are drawn")
        reset()
    label_by_hand(page, label, failures)
    foreign = page.evaluate("document.querySelectorAll('#list script, #list iframe, #list [onerror], #list [onload], #list a').length")
    check(failures, foreign == 0, f"{label}: no element comes out of a text")
    check(failures, slowest < most_ms, f"{label}: slowest filter {slowest:.0f} ms")


def label_by_hand(page, label, failures):
    """Scores two sentences with the keyboard, compares two rationales, and checks the downloaded labels."""
    page.check("#labels [name=on]")
    fields = page.locator("#list input.own")
    if fields.count() < 2:
        page.uncheck("#labels [name=on]")
        return
    told = page.locator("#list .score, #list del, #list .tags").count()
    check(failures, told == 0, f"{label}: what the Teacher said is hidden")
    page.fill("#labels [name=by]", "A. <b>Person</b>")
    fields.nth(0).focus()
    page.keyboard.type("0.75")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    check(failures, fields.nth(1).input_value() == "0.6", f"{label}: arrows change a score from neutral: {fields.nth(1).input_value()}")
    pairs = page.locator("#list .pair")
    if pairs.count():
        pairs.first.locator("input").nth(1).check()
    page.reload()
    page.wait_for_selector("#list .card")
    page.check("#labels [name=on]")
    kept = [fields.nth(0).input_value(), fields.nth(1).input_value(), page.input_value("#labels [name=by]")]
    check(failures, kept == ["0.75", "0.6", "A. <b>Person</b>"], f"{label}: labels survive a reload: {kept}")
    page.fill("#list input.own >> nth=2", "7")
    with page.expect_download() as download:
        page.click("#labels [name=download]")
    lines = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    scores = [line for line in lines if line["kind"] == "score"]
    check(failures, [line["score"] for line in scores] == [0.75, 0.6], f"{label}: two scores are downloaded, none out of range")
    whole = {"kind", "problem_id", "rollout_id", "round", "sentence_index", "sentence", "score", "by", "labelled_at"}
    check(failures, all(set(line) == whole for line in scores), f"{label}: with all that names their sentence")
    better = [line["better"] for line in lines if line["kind"] == "preference"]
    check(failures, better == ["second"] * bool(pairs.count()), f"{label}: and the better of two")
    check(failures, download.value.suggested_filename.endswith(".jsonl"), f"{label}: {download.value.suggested_filename}")
    page.select_option("#filters [name=mine]", "yes")
    check(failures, page.locator("#list .card").count() == 1, f"{label}: problems with labels are found")
    page.click("#filters button[type=reset]")
    page.click("#labels [name=remove]")
    page.click("#labels [name=remove]")
    check(failures, page.text_content("#labelled").startswith("0 sentences"), f"{label}: labels are deleted")
    check(failures, page.text_content("#labels [name=remove]") == "Delete all", f"{label}: and deleting is asked twice again")
    page.uncheck("#labels [name=on]")


def main():
    options = arguments()
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        print("SKIPPED: playwright is not installed, so the report was not looked at")
        return SKIPPED
    failures = []
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"))
        except Error as error:
            print(f"SKIPPED: no Chromium, so the report was not looked at: {str(error).splitlines()[0]}")
            return SKIPPED
        for name in WIDTHS:
            for theme in ["light", "dark"]:
                look(browser, options.report, name, theme, options.shots, options.most_ms, failures)
        browser.close()
    print(f"{len(failures)} faults")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
