"""HTML whose texts are escaped: a prompt, a response or a file name can hold anything and is shown as text."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Markup(str):
    """Text that is HTML already."""


def html_tag(name: str, *children: str | Iterable[str], **attributes: str) -> Markup:
    """html_tag("p", "1 < 2", class_="soft") -> <p class="soft">1 &lt; 2</p>

    Children are strings or lists of them, escaped unless they are Markup; "_" in a name of an attribute becomes "-".
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{given}>{''.join(map(_html, children))}</{name}>")


def _html(child: str | Iterable[str]) -> str:
    if isinstance(child, Markup):
        return child
    return html.escape(child) if isinstance(child, str) else "".join(map(_html, child))
