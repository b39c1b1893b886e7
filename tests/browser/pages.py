"""What tests do with a page of the app: go to a tab, read a box, wait for what it says."""

from __future__ import annotations

import json
from typing import Literal

from playwright.sync_api import Page

SCHEMES: tuple[Literal["dark", "light"], ...] = ("dark", "light")


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def value(page: Page, box: str) -> str:
    return page.locator(f"#{box} textarea").input_value()


def says(page: Page, box: str, part: str) -> None:
    """Wait until the text of a box has `part` in it."""
    page.wait_for_function(
        "([box, part]) => document.querySelector(`#${box} textarea`)?.value.includes(part)", arg=[box, part]
    )


def filled(page: Page, box: str, other_than: str = "") -> str:
    """The text of a box, once it is neither empty nor `other_than`."""
    unwanted = json.dumps(["", other_than])
    page.wait_for_function(f"!{unwanted}.includes(document.querySelector('#{box} textarea').value)")
    return value(page, box)


def shown_in(page: Page, scheme: Literal["dark", "light"]) -> None:
    """Light or dark, as the system is set while the page is open, and no colour still fading."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(
        "(scheme) => document.body.classList.contains('dark') === (scheme === 'dark')"
        " && !document.getAnimations().some((one) => one instanceof CSSTransition)",
        arg=scheme,
    )


def stops(page: Page) -> int:
    """How often the Tab key stops on the page, shadow trees included."""
    return page.evaluate("""() => {
        let count = 0;
        const walk = (root) => root.querySelectorAll("*").forEach((node) => {
            if (node.shadowRoot) walk(node.shadowRoot);
            const operable = node.matches("a[href], button, input, textarea, select, summary, [tabindex]");
            if (operable && node.tabIndex >= 0 && !node.disabled && node.getClientRects().length) count += 1;
        });
        walk(document);
        return count;
    }""")
