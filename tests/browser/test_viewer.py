"""The attention viewer by itself in a page, answered by Python: as the app and notebooks use it."""

from __future__ import annotations

import json
import time

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from labkit.interpret import Look, Views
from labkit.model import Gated, ModelConfig, Transformer
from labkit.paths import demo_folder
from labkit.runs import Run
from labkit.text.tokenizer import Tokenizer
from labkit.ui.viewers import SOURCE

HOSTILE = '<img src=x onerror="window.hacked=1">'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Run.open(demo_folder()).tokenizer()


def made(tokenizer: Tokenizer, seed: int = 0, **shape) -> Transformer:
    torch.manual_seed(seed)
    sizes = {"width": 48, "depth": 2, "heads": 4, "key_heads": 4, "feed_forward": Gated(32)}
    model = Transformer(ModelConfig(tokenizer.size, 96, **{**sizes, **shape})).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def opened(browser: Browser, views: Views) -> Page:
    """A page with the viewer of the first checkpoint, which may ask."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_content("<!doctype html><body></body>")
    page.expose_function("ask", lambda question: views.answer(question))
    page.evaluate(SOURCE)
    page.evaluate(
        "(data) => { const view = document.createElement('labkit-attention'); view.ask = window.ask; view.data = data;"
        " document.body.append(view); }",
        views.view(views.names[0]),
    )
    return page


def test_twelve_layers_of_twelve_heads_over_64_tokens(browser: Browser, tokenizer: Tokenizer):
    model = made(tokenizer, depth=12, heads=12, key_heads=12, head_width=4)
    ids = torch.randint(5, tokenizer.size, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    views = Views(["model"], lambda name: Look(model, tokenizer, ids))
    size = len(json.dumps(views.view("model")))
    assert size < 1_200_000, f"{size} bytes"
    page = opened(browser, views)
    draw = """(data) => new Promise((done) => { const from = performance.now();
        document.querySelector('labkit-attention').data = data;
        requestAnimationFrame(() => setTimeout(() => done(performance.now() - from))); })"""
    seconds = sorted(page.evaluate(draw, views.view("model")) / 1000 for _ in range(3))
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
    looks = {name: Look(model, tokenizer, tokenizer.encode(" Tom had a ball.")) for name, model in models.items()}
    page = opened(browser, Views(list(models), looks.__getitem__))
    page.locator("[data-head='0-0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-head='1-1']")).to_be_focused()
    nats = looks["base"].without(0, 1, 1).nats
    expect(page.locator("[data-panel=without]")).to_contain_text(f"{nats:.3f} nats")
    page.locator("[data-kind=mean]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-panel=without]")).to_contain_text(
        f"{looks['base'].without(0, 1, 1, 'mean').nats:.3f} nats"
    )
    expect(page.locator("[data-kind=mean]")).to_be_focused()
    page.locator(".column.left .token").first.focus()
    for key in ("End", "Enter"):
        page.keyboard.press(key)
    page.locator(".column.right .token").first.focus()
    for key in ("ArrowDown", "Enter"):
        page.keyboard.press(key)
    last = len(looks["base"].ids) - 1
    cell = looks["base"].cell(0, 1, 1, last, 1)
    panel = page.locator("[data-panel=cell]")
    for number in (cell.dot, cell.scale, cell.score):
        expect(panel).to_contain_text(f"{number:.3f}")
    expect(panel).to_contain_text("the position is inside q and k")
    page.locator("[data-view=matrix]").focus()
    page.keyboard.press("Enter")
    page.locator("canvas.square").focus()
    page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text(f"{looks['base'].cell(0, 1, 1, last, 2).score:.3f}")
    page.locator("[data-measure]").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".effect")).to_have_count(8)
    page.locator(".top input").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".stage")).to_have_text("tuned")
    expect(page.locator("[data-panel=without]")).to_contain_text(
        f"{looks['tuned'].without(0, 1, 1, 'mean').nats:.3f} nats"
    )
    page.get_by_text("as a table").click()
    expect(page.locator("details tbody tr")).to_have_count(last + 1)
    page.close()


def test_three_kinds_of_attention_and_shared_keys_are_told_apart(browser: Browser, tokenizer: Tokenizer):
    model = made(tokenizer, encoder=1, key_heads=2)
    source, ids = tokenizer.encode(" Tom had a ball."), tokenizer.encode(" Who?")
    page = opened(browser, Views(["model"], lambda name: Look(model, tokenizer, ids, source)))
    expect(page.locator(".top button")).to_have_text(
        ["encoder, both ways", "self-attention, causal", "cross-attention"]
    )
    expect(page.locator(".grid button")).to_have_count(4)
    page.get_by_text("cross-attention").click()
    expect(page.locator(".column.left .token")).to_have_count(len(ids))
    expect(page.locator(".column.right .token")).to_have_count(len(source))
    inks = []
    for head in range(4):
        page.locator(f"[data-head='0-{head}']").click()
        expect(page.locator(".which")).to_contain_text(f"key head {head // 2 + 1}")
        inks.append(page.evaluate("document.querySelector('labkit-attention').style.getPropertyValue('--ink')"))
    assert inks[0] == inks[1] != inks[2] == inks[3]
    page.close()


def test_without_an_answer_it_says_so_and_text_stays_text(browser: Browser, tokenizer: Tokenizer):
    look = Look(made(tokenizer), tokenizer, tokenizer.encode(HOSTILE))
    views = Views([HOSTILE, "other"], lambda name: look)
    page = opened(browser, views)
    expect(page.locator(".stage")).to_have_text(HOSTILE)
    expect(page.locator(".column.left")).to_contain_text("onerror")
    expect(page.locator("[data-panel=without] tbody tr").first).to_be_visible()
    page.evaluate("document.querySelector('labkit-attention').ask = null")
    page.locator("[data-head='1-1']").click()
    expect(page.locator("[data-panel=without]")).to_contain_text("needs the running kernel")
    assert page.evaluate("window.hacked") is None and page.locator("labkit-attention img").count() == 0
    page.close()
