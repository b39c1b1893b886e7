"""What holds the tabs together, and what is done to runs, as a person does it."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect

from labkit.preferences.store import PreferenceStore
from tests.browser.conftest import ROOT, App, Opened, answered
from tests.browser.pages import SCHEMES, filled, says, shown_in, tab


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app behind a proxy that is not there, with one run that cannot be read."""
    folder = tmp_path_factory.mktemp("shell") / "runs"
    (folder / "broken").mkdir(parents=True)
    (folder / "broken" / "recipe.json").write_text("{")
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "all_proxy"):
            environment.setenv(name, "socks5://127.0.0.1:9")
        environment.setenv("no_proxy", "")
        started = App(folder)
    yield from answered(started)


def chosen_tab(page: Page, name: str) -> None:
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")


def test_arrow_keys_and_the_address_go_from_tab_to_tab(app: App, visited: Opened):
    page = visited(app.url)
    expect(page.locator("labkit-attention .grid button")).to_have_count(8)  # Gradio loses clicks while it starts
    page.get_by_role("tab", name="Attention").focus()
    for key, name in [("ArrowRight", "Decoding"), ("End", "Runs"), ("ArrowRight", "Attention"), ("ArrowLeft", "Runs"),
                      ("Home", "Attention")]:  # fmt: skip
        page.keyboard.press(key)
        chosen_tab(page, name)
        expect(page.get_by_role("tab", name=name)).to_be_focused()
    for name in ("Runs", "Preferences"):
        tab(page, name)
        expect(page).to_have_url(re.compile(f"tab={name.lower()}"))
    page.go_back()
    chosen_tab(page, "Runs")
    page.reload()
    chosen_tab(page, "Runs")
    page.go_back()
    chosen_tab(page, "Attention")
    page.go_forward()
    chosen_tab(page, "Runs")
    assert page.url.startswith(app.url)


def test_a_report_and_a_language(app: App, visited: Opened):
    """On one page: a run's report is opened; then the language is chosen, and kept when the page is opened again."""
    page = visited(f"{app.url}/?tab=runs")
    open_the_report(page)
    choose_a_language(page, app)


def open_the_report(page: Page) -> None:
    """A page of its own, whose scripts run and whose policy lets no other in; it breaks none of its own rules."""
    said: list[ConsoleMessage] = []

    def listen(message: ConsoleMessage) -> None:
        said.append(message)

    page.context.on("console", listen)
    expect(page.locator("#runs-report")).to_be_enabled()
    with page.context.expect_page() as opening:
        page.locator("#runs-report").click()
    report = opening.value
    expect(report.locator("h1")).to_have_text("demo")
    expect(report.locator(".main-svg").first).to_be_visible()  # its own scripts run
    added = (
        "const one = document.createElement('script'); one.textContent = 'window.hacked = 1'; document.body.append(one)"
    )
    report.evaluate(f"() => {{ {added} }}")
    assert report.evaluate("window.hacked") is None and report.evaluate("window.origin") == "null"
    page.context.remove_listener("console", listen)
    lines = [message.text for message in said if message.page == report]
    refused = [line for line in lines if "Content Security Policy" in line]
    assert refused and [line for line in refused if "script" not in line] == []
    report.close()


def choose_a_language(page: Page, app: App) -> None:
    expect(page.locator("#runs-stages")).to_contain_text("Finished")
    page.locator("#language").click()
    expect(page.get_by_role("tab", name="运行")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#runs-stages")).to_contain_text("已完成")
    expect(page.locator("#runs-stages")).to_contain_text("状态")
    expect(page.locator("#runs-plot")).to_contain_text("训练")
    page.locator("#runs-votes").click()
    says(page, "runs-votes-problem", "还没有任何投票偏好其中一个回答")
    page.goto(app.url)
    expect(page.locator("labkit-attention")).to_contain_text("所有层与头")  # the viewers, too
    page.locator("#language").click()
    expect(page.get_by_role("tab", name="Runs")).to_be_visible()


def test_the_preferences_tab(app: App, visited: Opened):
    """On one page: contrast in both colour schemes, then where keys vote and where they do not."""
    page = visited(f"{app.url}/?tab=preferences", color_scheme="dark")
    tell_words_from_their_paper(page)
    vote_in_the_area_alone(page, app)


CONTRAST = """(selector) => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll(selector)].filter((one) => one.offsetParent).map((one) => {
    let behind = one, paper = "rgba(0, 0, 0, 0)";
    while (behind && numbers(paper)[3] === 0) {
      paper = getComputedStyle(behind).backgroundColor;
      behind = behind.parentElement;
    }
    const [a, b] = [light(getComputedStyle(one).color), light(paper)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
}"""


def tell_words_from_their_paper(page: Page) -> None:
    chosen_tab(page, "Preferences")
    expect(page.locator("#first-hot .min_value")).to_be_visible()
    for scheme in SCHEMES:
        shown_in(page, scheme)
        for selector in ("button[role=tab]", ".min_value, .max_value", "#vote-left", "#language"):
            found = page.evaluate(CONTRAST, selector)
            assert found and min(found) >= 4.5, (scheme, selector, found)


def vote_in_the_area_alone(page: Page, app: App) -> None:
    """Arrow keys on a tab, a slider or in a field are theirs; after New pair the area has the focus."""
    page.locator("#pair-new").click()
    prompt = filled(page, "pair-prompt")
    expect(page.locator("#vote-area")).to_be_focused()
    for elsewhere in ("button[role=tab].selected", "#first-hot input[type=range]", "#pair-text :is(input, textarea)"):
        page.locator(elsewhere).first.focus()
        for key in ("ArrowRight", "ArrowLeft", "t", "u"):  # from a tab to the next, and back
            page.keyboard.press(key)
    page.locator("body").press("ArrowLeft")
    page.wait_for_timeout(500)
    assert PreferenceStore(app.runs / "votes.db").votes() == []
    page.locator("#pair-text :is(input, textarea)").fill("")
    page.locator("#vote-area").press("ArrowRight")
    says(page, "vote-said", "Votes by anonymous, of all kinds: 1 · the last pair")
    filled(page, "pair-prompt", other_than=prompt)
    assert [vote.choice for vote in PreferenceStore(app.runs / "votes.db").votes()] == ["right"]


def test_a_run_that_fails_is_seen_to_and_goes_away(app: App, visited: Opened):
    page = visited(f"{app.url}/?tab=runs")
    page.locator("#runs-new button").first.click()
    page.locator("#new-name input, #new-name textarea").first.fill("odd")
    more = page.locator("#new-more input, #new-more textarea").first
    more.fill("--model.width 257")
    page.locator("#runs-begin").click()
    says(page, "new-problem", "must be even, not 257")
    more.fill("--tokenizer.documents 60 --tokenizer.vocabulary 20001")  # which only the text can tell
    page.locator("#runs-begin").click()
    says(page, "runs-why-problem", "ended early")
    expect(page.locator("#runs-stages")).to_contain_text("Failed")
    expect(page.locator("#runs-go-on")).to_be_disabled()
    assert "20001" in page.locator("#runs-log textarea").input_value()
    page.reload()  # it is still there, with its log, and can be deleted
    expect(page.locator("#runs-name input")).to_have_value("demo")
    page.locator("#runs-all [role=gridcell]", has_text="odd").click()
    expect(page.locator("#runs-name input")).to_have_value("odd (failed to start)")
    says(page, "runs-why-problem", "The text cannot give a vocabulary of 20001")
    assert "20001" in page.locator("#runs-log textarea").input_value()
    page.locator("#runs-manage button").first.click()
    page.locator("#delete-confirm :is(input, textarea)").fill("odd")
    page.locator("#runs-delete").click()
    says(page, "manage-problem", "odd is deleted")
    expect(page.locator("#runs-all")).not_to_contain_text("odd")
    page.get_by_label("Run", exact=True).last.click()
    page.get_by_role("option", name="broken (unreadable)").click()
    says(page, "runs-why-problem", "recipe.json")


def test_a_run_is_renamed_and_deleted(app: App, visited: Opened, opened: Opened):
    copy(app.runs / "spare")
    page = visited(f"{app.url}/?tab=runs")
    name = page.locator("#runs-name input")
    other = opened(f"{app.url}/?tab=runs")
    for window in (page, other):
        window.locator("#runs-all [role=gridcell]", has_text="spare").click()
        expect(window.locator("#runs-name input")).to_have_value("spare")
        expect(window.locator("#runs-go-on")).to_be_enabled()
    page.locator("#runs-manage button").first.click()
    page.locator("#rename-to :is(input, textarea)").fill("kept")
    page.locator("#runs-rename").click()
    says(page, "manage-problem", "spare is now called kept")
    expect(name).to_have_value("kept")
    says(other, "runs-why-problem", "There is no run 'spare'")  # without a click there
    expect(other.locator("#runs-go-on")).to_be_disabled()
    expect(other.locator("#runs-all")).to_contain_text("kept")
    page.locator("#runs-delete").click()
    says(page, "manage-problem", "type its name. Nothing was deleted")
    page.locator("#delete-confirm :is(input, textarea)").fill("kept")
    page.locator("#runs-delete").click()
    says(page, "manage-problem", "kept is deleted")
    assert not (app.runs / "kept").exists() and not (app.runs / "spare").exists()


def copy(folder: Path) -> None:
    """A run without models: the recipe of the one that comes with labkit."""
    folder.mkdir()
    (folder / "recipe.json").write_bytes((ROOT / "data" / "demo" / "recipe.json").read_bytes())


FOREIGN: list[Any] = [None, "../../etc/passwd", -1, 10**30, ["x", {"a": 1}], {"a": ["b"]}, "x" * 5000]
OURS = re.compile(r"^(runs|new|pair|vote|votes|rename|delete|first|second|standings)-")
"""The components of the tabs Preferences and Runs, by their names."""


def ask(url: str, function: int, data: list[Any]) -> dict[str, Any]:
    """What one function of the page says when it is called by hand."""
    session = uuid.uuid4().hex
    body = json.dumps({"data": data, "fn_index": function, "session_hash": session}).encode()
    request = urllib.request.Request(f"{url}/gradio_api/queue/join", body, {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=30).close()
    with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash={session}", timeout=60) as events:
        for line in events:
            event = json.loads(line[5:]) if line.startswith(b"data:") else {}
            if event.get("msg") == "process_completed":
                return event
    raise AssertionError("no answer")


def test_every_function_takes_what_no_page_would_send(app: App):
    """Answered, or refused by Gradio or by us; nothing of ours falls over."""
    with urllib.request.urlopen(f"{app.url}/config") as answer:
        config = json.load(answer)
    names = {one["id"]: one["props"].get("elem_id") or "" for one in config["components"]}
    functions = [
        one for one in config["dependencies"]
        if one["backend_fn"] and any(OURS.match(names.get(target, "")) for target, _ in one["targets"])
    ]  # fmt: skip
    assert len(functions) > 15  # and so that names are not found by chance alone
    before = len(app.log.read_text())
    for function in functions:
        for value in FOREIGN:
            ask(app.url, function["id"], [value] * len(function["inputs"]))
    time.sleep(0.2)
    lines = app.log.read_text()[before:].splitlines()
    ours = [line for line in lines if f"{ROOT}/labkit/" in line]
    assert [
        line for line in ours if "ui/served.py" not in line or "in __call__" not in line
    ] == []  # Gradio's own pass it


def test_half_a_character_is_refused_by_every_function(app: App):
    body = b'{"data": ["\\ud83d"], "fn_index": 0, "session_hash": "x"}'
    for path in ("queue/join", "run/predict", "call/attention", "component_server"):
        request = urllib.request.Request(f"{app.url}/gradio_api/{path}", body, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 422 and "a broken character" in refused.value.read().decode()
