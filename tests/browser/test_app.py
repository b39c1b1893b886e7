"""Each job of the app as a person does it."""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect

from labkit.paths import demo_folder
from labkit.preferences.store import PreferenceStore
from tests.browser.conftest import App, Opened, answered
from tests.browser.pages import SCHEMES, filled, says, shown_in, stops, tab, value

HOSTILE = (
    "<script>window.hacked=1</script><img src=x onerror=window.hacked=1> ${window.hacked=1} {{7*7}} \u202eabc\u202c"
)
TOO_LONG = "long " * 4_001  # by five characters


def test_the_attention_tab(app: App, visited: Opened):
    """On one page: it opens with an example, nothing pressed; a head is ablated, the stage slides and is chosen, heads
    are found and activations patched; then a text is written and what a head looks at is shown, by mouse, keyboard and
    as a table.
    """
    page = visited(app.url)
    expect(page.locator("labkit-attention .grid button")).to_have_count(8)  # of the run that comes with labkit
    ablate_slide_find_and_patch(page)
    look_at_a_text(page)


def ablate_slide_find_and_patch(page: Page) -> None:
    without = page.locator("labkit-attention [data-panel=without]")
    expect(without).to_contain_text("nats")
    about = page.locator("#attention-about labkit-table p")
    expect(about).to_contain_text("The model after the stage dpo resolves")  # of the opening example
    page.locator("labkit-attention [data-measure]").click()
    expect(page.locator("labkit-attention .effect")).to_have_count(8)
    first = without.inner_text()
    page.locator("labkit-attention .top input").focus()
    page.keyboard.press("Home")
    expect(page.locator("labkit-attention .stage")).to_have_text("pretrain")
    expect(page.get_by_label("Stage", exact=True).first).to_have_value("pretrain")  # the menu says what the slider says
    expect(page.locator("labkit-attention .top input")).to_be_focused()
    expect(without).not_to_have_text(first)
    expect(about).to_contain_text("The model after the stage pretrain resolves")
    page.get_by_label("Stage", exact=True).first.click()
    page.get_by_role("option", name="sft").click()
    expect(page.locator("labkit-attention .stage")).to_have_text("sft")
    expect(page.locator("labkit-attention [data-panel=lens] tbody tr")).to_have_count(5)
    page.locator("#heads").get_by_text("Find heads by what they do").first.click()
    page.locator("#heads-find").click()
    expect(page.locator("#heads-table p")).to_contain_text("Stage sft, 48 texts of TinyWorld")
    expect(page.locator("#heads-table th").last).to_have_text("log-odds lost when ablated")
    page.locator("#patching").get_by_text("Activation patching").click()
    page.locator("#patching-go").click()
    expect(page.locator("labkit-grid tbody tr")).to_have_count(5)
    expect(page.locator("labkit-grid p")).to_contain_text("rests on the word in the question more than on the reason")
    page.locator("#patching-second textarea").fill("Where?")
    page.locator("#patching-go").click()
    says(page, "patching-problem", "the same number of tokens")


def look_at_a_text(page: Page) -> None:
    heads = page.locator("labkit-attention .grid button")
    page.locator("#attention-text textarea").fill("The dog was sad because the kite was lost.")
    page.locator("#attention-look").click()
    tokens = page.locator("labkit-attention .column.left .token")
    expect(tokens.filter(has_text="kite")).to_have_count(1)
    heads.nth(3).click()
    expect(heads.nth(3)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowDown")
    expect(heads.nth(5)).to_have_attribute("aria-pressed", "true")
    tokens.filter(has_text="kite").hover()
    expect(page.locator("labkit-attention .says")).to_contain_text("kite")
    page.locator("labkit-attention summary", has_text="as a table").click()
    expect(page.locator("labkit-attention details tbody tr")).to_have_count(tokens.count())


def chosen(page: Page, number: int, line: str) -> None:
    """Type a strategy into one of the boxes."""
    page.locator(f"#decoding-strategy-{number} :is(input, textarea)").fill(line)


def written(page: Page) -> list[str]:
    return [column.inner_text() for column in page.locator("labkit-texts .column .text").all()]


def test_strategies_are_compared_looked_into_branched_and_linked(app: App, visited: Opened, opened: Opened):
    page = visited(app.url)
    tab(page, "Decoding")
    page.locator("#decoding-example-1 input").click()
    page.get_by_role("option", name="greedy no-repeat=3").click()
    expect(page.locator("#decoding-strategy-1 :is(input, textarea)")).to_have_value("greedy no-repeat=3")
    chosen(page, 2, "temperature=1.5 top-p=0.9")
    page.locator("#decoding-compare").click()
    columns = page.locator('labkit-texts .column[data-done="true"]')
    expect(columns).to_have_count(3)
    assert len(set(written(page))) == 3
    expect(page.locator("labkit-texts .token.parts")).to_have_count(3)  # the first that differs, in all three
    page.locator("labkit-texts .token.parts").nth(1).click()
    expect(page.locator("labkit-texts .more tr.chosen")).to_have_count(1)
    bars = page.locator("labkit-texts .filter .bar span")
    expect(bars).to_have_count(2)
    expect(bars.nth(0)).to_contain_text("shifts")  # what the temperature does
    before = bars.all_inner_texts()
    page.locator("labkit-texts [data-down='0']").click()
    expect(bars.nth(0)).to_contain_text("removes")
    assert bars.all_inner_texts() != before
    expect(page.locator("labkit-texts .line")).to_have_text("top-p=0.9 temperature=1.5")
    page.locator("labkit-texts [data-filter=top-p]").fill("0")
    page.keyboard.press("Tab")
    expect(page.locator("labkit-texts [role=alert]")).to_contain_text("top-p must be above 0")
    page.locator("labkit-texts [data-filter=top-p]").fill("0.5")
    page.keyboard.press("Tab")
    expect(page.locator("labkit-texts [role=alert]")).to_have_count(0)
    page.locator("labkit-texts [data-branch]").nth(1).click()
    expect(page.locator("labkit-texts .column.branch h3")).to_have_text("top-p=0.5 temperature=1.5")
    page.locator("labkit-texts [data-tree]").click()
    found = page.locator("labkit-texts [data-found] tbody tr")
    expect(found).to_have_count(4)
    assert page.locator("labkit-texts .tree text.pruned").count() > 20
    scores = found.all_inner_texts()
    page.locator("labkit-texts [type=range]").focus()
    page.keyboard.press("End")  # as long as it gets
    expect(page.locator("labkit-texts [data-view=tree] h4")).to_contain_text("length-penalty=3")
    assert found.all_inner_texts() != scores
    page.locator("labkit-texts .link summary").click()
    link, texts = page.locator("labkit-texts [data-link]").input_value(), written(page)
    again = opened(link)
    expect(again.locator('labkit-texts .column[data-done="true"]')).to_have_count(4, timeout=120_000)
    assert written(again) == texts
    again.locator("labkit-texts [data-close]").click()
    expect(again.locator("labkit-texts .column")).to_have_count(3)
    expect(again.locator("#decoding-strategy-2 :is(input, textarea)")).to_have_value("temperature=1.5 top-p=0.9")
    again.goto(f"{app.url}/?decoding=%7B%22run")
    says(again, "decoding-problem", "This link is broken: no settings can be read from it. Shown instead")


def test_texts_are_gone_through_scored_and_stopped(app: App, visited: Opened):
    """On one page: a text is one stop of the Tab key; strategies are scored, wrong ones are refused, each in words;
    writing is stopped, and goes on with the next.
    """
    page = visited(app.url)
    tab(page, "Decoding")
    filled(page, "decoding-prompt")
    go_through_a_text_by_keys(page)
    chosen(page, 1, "greedy")
    score_and_say_what_is_wrong(page)
    stop_writing(page)


def go_through_a_text_by_keys(page: Page) -> None:
    """A text is one stop of the Tab key: the arrow keys go through its tokens, Enter opens one; the candidates too."""
    chosen(page, 1, "best n=3 temperature=1")
    before = stops(page)
    page.locator("#decoding-compare").click()
    expect(page.locator('labkit-texts .column[data-done="true"]')).to_have_count(3)
    assert page.locator("labkit-texts .token").count() > 40 and stops(page) <= before + 12
    tokens = page.locator("labkit-texts .column").nth(1).locator(".token")
    tokens.first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    expect(tokens.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("labkit-texts .more tr.chosen")).to_have_count(1)
    buttons = page.locator("labkit-texts [data-branch]")
    buttons.first.focus()
    page.keyboard.press("ArrowDown")
    expect(buttons.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("labkit-texts .column.branch")).to_have_count(1)
    page.locator("labkit-texts .answers summary").click()
    expect(page.locator("labkit-texts .answers tbody tr")).to_have_count(3)
    expect(page.locator("labkit-texts .answers tr.chosen")).to_have_count(1)


def score_and_say_what_is_wrong(page: Page) -> None:
    page.locator("#decoding-scores").get_by_text("Scores over many samples").click()
    page.locator("#decoding-measure").click()
    table = page.locator("#decoding-table")
    expect(table.locator("tbody tr")).to_have_count(3, timeout=120_000)
    expect(table.locator("thead")).to_contain_text("self-BLEU")
    expect(table.locator("tbody")).to_contain_text("±")
    for line, message in [
        ("top-p=0", "top-p must be above 0"),
        ("temperature=-1", "temperature must be at least 0"),
        ("beam beams=0", "at least one beam"),
        ("ban=exoplanetary", "not a single token"),
        ("sing", "There is no strategy 'sing'"),
    ]:
        chosen(page, 1, line)
        page.locator("#decoding-compare").click()
        says(page, "decoding-problem", message)
        assert value(page, "decoding-problem").startswith(f"Strategy 1, {line}: ") or "beams=0" in line


def stop_writing(page: Page) -> None:
    """In the middle of a long text; what was written stays, nothing is called an error, and the next one is written."""
    prompt = value(page, "decoding-prompt")
    for number in (1, 2, 3):
        chosen(page, number, "beam beams=32 early-stopping=never")
    page.locator("#decoding-tokens input[type=number]").fill("200")
    page.locator("#decoding-tokens input[type=number]").press("Enter")
    page.locator("#decoding-compare").click()
    tokens = page.locator("labkit-texts .column").first.locator(".token")
    expect(tokens.nth(3)).to_be_visible()
    page.locator("#decoding-stop").click()
    expect(page.locator('labkit-texts .column[data-done="true"]')).to_have_count(3)
    count = tokens.count()
    page.wait_for_timeout(1500)
    assert tokens.count() == count < 190
    assert page.locator(".error, [data-testid=toast-body]").count() == 0
    for number in (1, 2, 3):
        chosen(page, number, "greedy")
    page.locator("#decoding-compare").click()
    expect(page.locator("labkit-texts h3").first).to_have_text("greedy")
    expect(page.locator('labkit-texts .column[data-done="true"]')).to_have_count(3)
    assert value(page, "decoding-prompt") == prompt


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[App]:
    """An app that a test may kill."""
    (tmp_path / "runs").mkdir()
    yield from answered(App(tmp_path / "runs"))


def test_votes_train_the_next_model_and_survive_a_kill(fresh: App, visited: Opened):
    """Every key votes, the last vote is undone, DPO on the votes is followed over a reload, its model is there without
    one and after one; then the app is killed straight after it has acknowledged a vote, which is on the disk.
    """
    page = visited(fresh.url)
    tab(page, "Preferences")
    page.locator("#pair-annotator input, #pair-annotator textarea").first.fill("ada")
    page.locator("#pair-new").click()
    keys = ["ArrowLeft", "ArrowRight", "t", "b", "s", "ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowLeft", "ArrowRight"]
    asked = filled(page, "pair-prompt")
    for number, key in enumerate(keys, 1):
        page.locator("#vote-area").press(key)
        says(page, "vote-said", f"Votes by ada, of all kinds: {number} · the last pair")
        if number < len(keys):
            asked = filled(page, "pair-prompt", other_than=asked)
    store = PreferenceStore(fresh.runs / "votes.db")
    assert [vote.choice for vote in store.votes("ada")] == [
        {"ArrowLeft": "left", "ArrowRight": "right", "t": "tie", "b": "both_bad", "s": "skip"}[key] for key in keys
    ]
    page.locator("#vote-undo").click()
    says(page, "vote-said", "↶")
    assert len(store.votes("ada")) == 9
    tab(page, "Runs")
    page.locator("#runs-votes").click()
    name = page.locator("#runs-name input")
    expect(name).to_have_value("demo-votes-1")
    expect(page.locator("#runs-stages")).to_contain_text(re.compile("Running|Evaluating"), timeout=60_000)
    expect(page.locator("#runs-plot .main-svg").first).to_be_visible()
    page.reload()
    tab(page, "Runs")
    expect(name).to_have_value("demo-votes-1")
    expect(page.get_by_role("row", name="dpo Finished 20 / 20")).to_be_visible(timeout=120_000)
    expect(page.locator("#runs-go-on")).to_be_disabled()  # nothing is left that was asked for
    tab(page, "Attention")  # the new model is there without loading the page again
    page.get_by_label("Run", exact=True).first.click()
    page.get_by_role("option", name="demo-votes-1").click()
    expect(page.get_by_label("Stage", exact=True).first).to_have_value("dpo")
    page.reload()
    expect(page.locator("labkit-attention .grid button").first).to_be_visible()
    chosen = page.get_by_label("Run", exact=True).first
    expect(chosen).to_have_value("demo-votes-1")
    expect(page.get_by_label("Stage", exact=True).first).to_have_value("dpo")
    tab(page, "Preferences")
    page.locator("#pair-new").click()
    filled(page, "pair-prompt")
    page.locator("#vote-right").click()
    says(page, "vote-said", "Votes by anonymous, of all kinds: 1 ·")  # no name was typed
    fresh.kill()
    (vote,) = PreferenceStore(fresh.runs / "votes.db").votes("anonymous")
    assert vote.choice == "right"


def test_text_is_never_markup(app: App, visited: Opened):
    page = visited(app.url)
    expect(page.locator("labkit-attention .grid button")).to_have_count(8)
    page.locator("#attention-text textarea").fill(HOSTILE)
    page.locator("#attention-look").click()
    expect(page.locator("labkit-attention .column.left")).to_contain_text("script")
    page.locator("#attention-text textarea").fill(TOO_LONG)
    page.locator("#attention-look").click()
    says(page, "attention-problem", "The text has 20,005 characters; the limit is")
    tab(page, "Decoding")
    page.locator("#decoding-prompt textarea").fill(HOSTILE)
    page.locator("#decoding-compare").click()
    expect(page.locator('labkit-texts .column[data-done="true"]').first).to_be_visible()
    page.locator("#decoding-prompt textarea").fill(TOO_LONG)
    page.locator("#decoding-compare").click()
    says(page, "decoding-problem", "has 20,005 characters; the limit is")
    tab(page, "Preferences")
    page.locator("#pair-annotator input, #pair-annotator textarea").first.fill(HOSTILE)
    page.locator("#pair-text input, #pair-text textarea").first.fill(HOSTILE)
    page.locator("#pair-new").click()
    assert filled(page, "pair-prompt") == HOSTILE
    page.locator("#vote-left").click()
    assert filled(page, "vote-said").startswith("Votes by <script>")
    assert [vote.annotator for vote in PreferenceStore(app.runs / "votes.db").votes(HOSTILE)] == [HOSTILE]
    tab(page, "Runs")
    page.get_by_text("A new run").click()
    page.locator("#new-name input, #new-name textarea").first.fill(HOSTILE)
    page.locator("#runs-begin").click()
    says(page, "new-problem", "is not a valid name for a run")
    page.locator("#new-name input, #new-name textarea").first.fill("new")
    page.locator("#new-method input").click()
    page.get_by_role("option", name="GRPO", exact=True).click()
    says(page, "new-command", "--grpo.train.steps")  # its settings, filled in, are in the command of a terminal
    command = value(page, "new-command")
    assert command.startswith(f"labkit run --out {app.runs.name}/new ") and str(app.runs) not in command
    assert page.evaluate("window.hacked") is None


def test_two_people_do_not_mix_and_wait_for_each_other(app: App, visited: Opened, opened: Opened):
    """Each of two pages shows what was asked there, in three tabs; then one of them waits for the other's search."""
    pages = [visited(app.url), opened(app.url)]
    for page, word in zip(pages, ("garden", "market"), strict=True):
        expect(page.locator("labkit-attention .grid button")).to_have_count(8)
        page.locator("#attention-text textarea").fill(f"The {word} was quiet.")
    for page in pages:
        page.locator("#attention-look").click()
    for page, word in zip(pages, ("garden", "market"), strict=True):
        expect(page.locator("labkit-attention .column.left")).to_contain_text(word)
    for number, page in enumerate(pages):
        tab(page, "Decoding")
        filled(page, "decoding-prompt")
        chosen(page, 1, f"temperature={number + 1}")
        page.locator("#decoding-compare").click()
    for number, page in enumerate(pages):
        expect(page.locator('labkit-texts .column[data-done="true"]')).to_have_count(3)
        expect(page.locator("labkit-texts h3").first).to_have_text(f"temperature={number + 1}")
    assert written(pages[0])[0] != written(pages[1])[0] and written(pages[0])[1:] == written(pages[1])[1:]
    for page in pages:
        tab(page, "Preferences")
        page.locator("#pair-new").click()
    prompts = [(filled(page, "pair-prompt"), filled(page, "pair-left")) for page in pages]
    for page, before in zip(pages, prompts, strict=True):
        assert (value(page, "pair-prompt"), value(page, "pair-left")) == before
    for page in pages:
        tab(page, "Decoding")
    click_during_work(*pages)


def click_during_work(one: Page, other: Page) -> None:
    """One person's long search: their next click ends it, and somebody else sees the place in the queue."""
    for number in (1, 2, 3):
        chosen(one, number, "beam beams=32 early-stopping=never")
    one.locator("#decoding-tokens input[type=number]").fill("200")
    one.locator("#decoding-tokens input[type=number]").press("Enter")
    one.locator("#decoding-compare").click()
    expect(one.locator("labkit-texts .column").first.locator(".token").nth(3)).to_be_visible()
    other.locator("#decoding-compare").click()
    expect(other.locator("#decoding-view")).to_contain_text("queue: 1/1")
    for number in (1, 2, 3):
        chosen(one, number, "greedy")
    one.locator("#decoding-compare").click()
    expect(one.locator("labkit-texts h3").first).to_have_text("greedy")
    for page in (one, other):
        expect(page.locator('labkit-texts .column[data-done="true"]')).to_have_count(3)
        assert page.locator(".error, [data-testid=toast-body]").count() == 0


def test_twenty_at_once_are_all_served(app: App):
    def ask(number: int) -> str:
        client = Client(app.url, verbose=False)
        shown, _ = client.predict("demo", "sft", f"{number} birds", api_name="/attention")
        return "".join(shown["maps"][0]["rows"])

    with ThreadPoolExecutor(20) as people:
        answers = list(people.map(ask, range(20)))
    assert [number for number, text in enumerate(answers) if f"{number} birds" not in text] == []


def test_what_is_private_cannot_be_downloaded(app: App):
    (app.runs / "votes.db").touch()
    private = [
        app.runs / "votes.db",
        demo_folder() / "sft" / "model.safetensors",
        Path.home() / ".bashrc",
        "/etc/passwd",
    ]
    for path in private:
        for root in ("gradio_api/file=", "file="):
            address = f"{app.url}/{root}{urllib.parse.quote(str(path))}"
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(address)
            assert refused.value.code in (403, 404), address


def test_it_speaks_the_language_of_the_browser(app: App, opened: Opened):
    page = opened(app.url, locale="zh-CN")
    expect(page.get_by_role("tab", name="注意力")).to_be_visible()
    expect(page.locator("labkit-attention")).to_contain_text("所有层与头")
    expect(page.get_by_role("button", name="显示注意力")).to_be_visible()


def test_it_fits_a_telephone(app: App, visited: Opened):
    page = visited(app.url, viewport={"width": 390, "height": 844}, color_scheme="dark")
    expect(page.locator("labkit-attention .grid button")).to_have_count(8)
    for scheme in SCHEMES:
        shown_in(page, scheme)
        for name in ("Attention", "Decoding", "Preferences", "Runs"):
            chosen = page.get_by_role("tab", name=name)
            if not chosen.is_visible():  # behind the button for what has no room
                page.locator(".overflow-menu button").first.click()
                chosen = page.locator(".overflow-dropdown").get_by_text(name)
            chosen.click()
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, (scheme, name)
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert ink != paper
