"""The attention viewer by itself in a page, answered by Python: as the app and notebooks use it."""

from __future__ import annotations

import json
import re
import time

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from labkit.interpret import CheckpointInspections, Inspection
from labkit.model import Gated, ModelConfig, Transformer
from labkit.paths import demo_folder
from labkit.runs.folder import Run
from labkit.text.tokenizer import Tokenizer
from labkit.viewers.adapters import IN_NOTEBOOK, SOURCE

HOSTILE = '<img src=x onerror="window.hacked=1">'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Run.open(demo_folder()).tokenizer()


def made(tokenizer: Tokenizer, seed: int = 0, **shape) -> Transformer:
    torch.manual_seed(seed)
    sizes = {"width": 48, "depth": 2, "heads": 4, "key_value_heads": 4, "feed_forward": Gated(32)}
    model = Transformer(ModelConfig(tokenizer.vocab_size, 96, **{**sizes, **shape})).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def opened(browser: Browser, views: CheckpointInspections) -> Page:
    """A page with the viewer of the first checkpoint, which may ask."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_content("<!doctype html><body></body>")
    page.expose_function("ask", lambda question: views.handle_request(question))
    page.evaluate(SOURCE)
    page.evaluate(
        "(data) => { const view = document.createElement('labkit-attention'); view.ask = window.ask; view.data = data;"
        " document.body.append(view); }",
        views.attention_viewer_data(views.checkpoint_names[0]),
    )
    return page


def test_twelve_layers_of_twelve_heads_over_64_tokens(browser: Browser, tokenizer: Tokenizer):
    model = made(tokenizer, depth=12, heads=12, key_value_heads=12, head_dim=4)
    ids = torch.randint(5, tokenizer.vocab_size, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    views = CheckpointInspections(["model"], lambda name: Inspection(model, tokenizer, ids))
    size = len(json.dumps(views.attention_viewer_data("model")))
    assert size < 1_200_000, f"{size} bytes"
    page = opened(browser, views)
    draw = """(data) => new Promise((done) => { const from = performance.now();
        document.querySelector('labkit-attention').data = data;
        requestAnimationFrame(() => setTimeout(() => done(performance.now() - from))); })"""
    seconds = sorted(page.evaluate(draw, views.attention_viewer_data("model")) / 1000 for _ in range(3))
    assert seconds[1] < 1.5, f"drawn in {seconds[1]:.2f} s"
    expect(page.locator(".grid button")).to_have_count(144)
    before = time.monotonic()
    page.locator("[data-head='7-9']").click()
    expect(page.locator(".which")).to_contain_text("layer 8, head 10")
    expect(page.locator("[data-panel=without] tbody tr").first).to_be_visible()
    assert time.monotonic() - before < 5
    page.close()


def test_a_head_is_opened_ablated_and_explained_with_the_keyboard_alone(browser: Browser, tokenizer: Tokenizer):
    models = {"base": made(tokenizer), "tuned": made(tokenizer, seed=1)}
    looks = {name: Inspection(model, tokenizer, tokenizer.encode(" Tom had a ball.")) for name, model in models.items()}
    page = opened(browser, CheckpointInspections(list(models), looks.__getitem__))
    page.locator("[data-head='0-0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-head='1-1']")).to_be_focused()
    nats = looks["base"].ablate(0, 1, 1).kl_nats
    expect(page.locator("[data-panel=without]")).to_contain_text(f"{nats:.3f} nats")
    page.locator("[data-kind=mean]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-panel=without]")).to_contain_text(
        f"{looks['base'].ablate(0, 1, 1, 'mean').kl_nats:.3f} nats"
    )
    expect(page.locator("[data-kind=mean]")).to_be_focused()
    page.locator(".column.left .token").first.focus()
    for key in ("End", "Enter"):
        page.keyboard.press(key)
    page.locator(".column.right .token").first.focus()
    for key in ("ArrowDown", "Enter"):
        page.keyboard.press(key)
    last = len(looks["base"].ids) - 1
    cell = looks["base"].score_breakdown(0, 1, 1, last, 1)
    panel = page.locator("[data-panel=cell]")
    for number in (cell.dot, cell.scale, cell.score):
        expect(panel).to_contain_text(f"{number:.3f}")
    expect(panel).to_contain_text("already in q and k")
    page.locator("[data-view=matrix]").focus()
    page.keyboard.press("Enter")
    page.locator("canvas.square").focus()
    page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text(f"{looks['base'].score_breakdown(0, 1, 1, last, 2).score:.3f}")
    page.locator("[data-measure]").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".effect")).to_have_count(8)
    page.locator(".top input").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".stage")).to_have_text("tuned")
    expect(page.locator("[data-panel=without]")).to_contain_text(
        f"{looks['tuned'].ablate(0, 1, 1, 'mean').kl_nats:.3f} nats"
    )
    page.get_by_text("as a table").click()
    expect(page.locator("details tbody tr")).to_have_count(last + 1)
    page.close()


def test_three_kinds_of_attention_and_shared_keys_are_told_apart(browser: Browser, tokenizer: Tokenizer):
    model = made(tokenizer, encoder_depth=1, key_value_heads=2)
    source, ids = tokenizer.encode(" Tom had a ball."), tokenizer.encode(" Who?")
    page = opened(browser, CheckpointInspections(["model"], lambda name: Inspection(model, tokenizer, ids, source)))
    expect(page.locator(".top button")).to_have_text(
        ["encoder, bidirectional", "self-attention, causal", "cross-attention"]
    )
    expect(page.locator(".grid button")).to_have_count(4)
    page.get_by_text("cross-attention").click()
    expect(page.locator(".column.left .token")).to_have_count(len(ids))
    expect(page.locator(".column.right .token")).to_have_count(len(source))
    inks = []
    for head in range(4):
        page.locator(f"[data-head='0-{head}']").click()
        expect(page.locator(".which")).to_contain_text(f"KV head {head // 2 + 1}")
        inks.append(page.evaluate("document.querySelector('labkit-attention').style.getPropertyValue('--ink')"))
    assert inks[0] == inks[1] != inks[2] == inks[3]
    page.close()


def test_without_an_answer_it_says_so_and_text_stays_text(browser: Browser, tokenizer: Tokenizer):
    look = Inspection(made(tokenizer), tokenizer, tokenizer.encode(HOSTILE))
    views = CheckpointInspections([HOSTILE, "other"], lambda name: look)
    page = opened(browser, views)
    expect(page.locator(".stage")).to_have_text(HOSTILE)
    expect(page.locator(".column.left")).to_contain_text("onerror")
    expect(page.locator("[data-panel=without] tbody tr").first).to_be_visible()
    page.evaluate("document.querySelector('labkit-attention').ask = null")
    page.locator("[data-head='1-1']").click()
    expect(page.locator("[data-panel=without]")).to_contain_text("needs the running kernel")
    assert page.evaluate("window.hacked") is None and page.locator("labkit-attention img").count() == 0
    page.close()


KERNEL = """(data) => {
  const heard = {}, sent = [];
  window.kernel = { status: "busy", connectionStatus: "connected" };
  window.model = { get: () => data, on: (name, call) => { heard[name] = call; }, off: () => {},
    send: (message) => sent.push(message), widget_manager: { get kernel() { return window.kernel; } } };
  window.sent = sent;
  window.hear = (message) => heard["msg:custom"](message);
}"""


def test_in_a_notebook_a_question_waits_as_long_as_the_kernel_is_busy(browser: Browser, tokenizer: Tokenizer):
    """Run All takes minutes; the answer comes late, one that was lost is asked for again, and what is waited for is
    said.
    """
    look = Inspection(made(tokenizer), tokenizer, tokenizer.encode(" Tom had a ball."))
    views = CheckpointInspections(["model"], lambda name: look)
    page = browser.new_page()
    page.clock.install()
    page.set_content("<!doctype html><body></body>")
    page.evaluate(SOURCE)
    page.evaluate(KERNEL, views.attention_viewer_data("model"))
    module = IN_NOTEBOOK.replace("ELEMENT", "labkit-attention").replace("export default", "window.widget =")
    page.evaluate(module)
    page.evaluate("() => { window.end = window.widget.render({ model: window.model, el: document.body }); }")
    notice, without = page.locator(".notice"), page.locator("[data-panel=without]")
    page.clock.run_for(300_000)
    expect(notice).to_have_text("The kernel is busy: the answer comes when its cells are done.")
    first, second = page.evaluate("window.sent")
    assert first["question"]["what"] == "without" and second["question"]["what"] == "lens"
    page.evaluate("window.kernel.status = 'idle'")
    page.evaluate(
        "window.hear", {"id": second["id"], "answer": views.handle_request(second["question"])}
    )  # the first was lost
    again = page.evaluate("window.sent")[2]
    assert again["question"] == first["question"] and again["id"] > second["id"]
    page.evaluate("window.hear", {"id": again["id"], "answer": views.handle_request(again["question"])})
    expect(without.locator("tbody tr").first).to_be_visible()
    expect(notice).to_be_hidden()
    page.evaluate("window.kernel = null")
    page.locator("[data-head='1-1']").click()
    page.clock.run_for(3_000)
    expect(notice).to_have_text("This needs the running kernel.")
    page.evaluate("window.kernel = { status: 'idle', connectionStatus: 'connected' }")
    page.clock.run_for(6_000)
    latest = page.evaluate("window.sent.at(-1)")
    page.evaluate("window.hear", {"id": latest["id"], "answer": views.handle_request(latest["question"])})
    expect(without).to_contain_text(f"{look.ablate(0, 1, 1).kl_nats:.3f} nats")
    page.close()


def test_a_weight_has_one_percentage_wherever_it_stands(browser: Browser, tokenizer: Tokenizer):
    look = Inspection(made(tokenizer), tokenizer, tokenizer.encode(" Tom had a ball. Sam had a kite."))
    page = opened(browser, CheckpointInspections(["model"], lambda name: look))
    rows = page.locator(".column.left .token")
    for row in range(3, len(look.ids)):
        rows.nth(row).click()
        line = look.attention_maps[0].weights[0, 0, row]
        best = int(line.argmax())
        said = f"{100 * float(line[best]):.0f} %"
        expect(page.locator(".says")).to_contain_text(said)
        page.locator(".column.right .token").nth(best).click()
        expect(page.locator("[data-panel=cell] table").first).to_contain_text(said)
        expect(page.locator("[data-panel=cell] table").nth(1).locator("tbody tr").first).to_contain_text(said)
        place = page.locator("[data-panel=without] h3").inner_text().rpartition("(")[2]
        lens = page.locator("[data-panel=lens] h3").inner_text().rpartition("(")[2]
        assert place == lens  # both after the same token
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_can_be_seen_on_either_page(browser: Browser, tokenizer: Tokenizer, scheme):
    """The strongest line, as it is drawn, has a contrast of at least 3 to the page."""
    look = Inspection(made(tokenizer), tokenizer, tokenizer.encode(" Tom had a ball."))
    page = opened(browser, CheckpointInspections(["model"], lambda name: look))
    page.evaluate(
        "(dark) => { const { style } = document.body; style.background = dark ? '#0b0f19' : '#fff';"
        " style.color = dark ? '#eee' : '#222'; document.body.className = 'changed'; }",
        scheme == "dark",
    )
    page.locator("[data-head='1-1']").click()
    expect(page.locator("labkit-attention")).to_have_class("dark" if scheme == "dark" else "")
    ink = page.locator("labkit-attention line").first.evaluate("(line) => getComputedStyle(line).stroke")
    paper = (11, 15, 25) if scheme == "dark" else (255, 255, 255)
    colour = tuple(int(x) for x in re.findall(r"\d+", ink)[:3])
    assert contrast(colour, paper) > 4.5
    page.close()


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Of two colours, as WCAG 2 defines it."""

    def luminance(colour: tuple[int, ...]) -> float:
        linear = [x / 255 / 12.92 if x <= 10 else ((x / 255 + 0.055) / 1.055) ** 2.4 for x in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_what_is_wider_than_the_page_scrolls_and_says_so(browser: Browser):
    page = browser.new_page(viewport={"width": 390, "height": 700})
    page.set_content("<!doctype html><body></body>")
    page.evaluate(SOURCE)
    heads = ["strategy", *(f"score {i}" for i in range(12))]
    page.evaluate(
        "(data) => document.body.append(Object.assign(document.createElement('labkit-table'), { data }))",
        {"heads": heads, "rows": [["greedy", *(["0.123 ± 0.045"] * 12)]], "note": None},
    )
    box = page.locator(".sideways")
    expect(box).to_have_class("sideways more-right")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".inner").focus()
    page.locator(".inner").evaluate("(node) => { node.scrollLeft = node.scrollWidth; }")
    expect(box).to_have_class("sideways more-left")
    page.close()
