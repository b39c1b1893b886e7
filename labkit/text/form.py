"""The form in which a model knows a conversation: what stands before a turn's words, and what after them.

It is read off the chat template that comes with a tokenizer, by rendering conversations whose words are known. So any
template is understood that writes each turn the same way, as those of ChatML, Llama 3, Qwen and labkit do; another is
refused, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from labkit.errors import LabError

WORDS = {"system": "SYSTEMWORDS", "user": "USERWORDS", "assistant": "ASSISTANTWORDS"}


class Form(NamedTuple):
    """start: ids before the first turn. opening: ids before the words of each role. lead: what stands between them and
    the words, and is encoded with them: a space, or nothing. closing: ids after the words; the first ends them. system:
    what the system says in a conversation that does not let it speak; None when it says nothing then.
    """

    start: list[int]
    opening: dict[str, list[int]]
    lead: str
    closing: list[int]
    system: str | None


def form_of(template: str, parse: Callable[[str], list[int]], names: dict[str, Any]) -> Form:
    """The form that a chat template writes. parse: text with special tokens -> ids; names: what the template may ask
    for, as bos_token. Raises LabError for a template that cannot be rendered, or that writes no such form.
    """

    def rendered(roles: Sequence[str], prompt: bool = False) -> str:
        messages = [{"role": role, "content": WORDS[role]} for role in roles]
        return _render(template, messages, prompt, names)

    alone, prompted = rendered(["user"]), rendered(["user"], prompt=True)
    whole = rendered(["system", "user", "assistant"])
    before, between, turn, closing = _split(whole, list(WORDS.values()))
    generation = prompted.removeprefix(alone)
    opening = {"user": between.removeprefix(closing), "assistant": turn.removeprefix(closing)}
    lead = opening["assistant"].removeprefix(generation)
    opening = {role: text.removesuffix(lead) if lead else text for role, text in opening.items()}
    opening["system"] = opening["user"].replace("user", "system")
    start = before.removesuffix(opening["system"] + lead)
    said = alone.removeprefix(start).removesuffix(opening["user"] + lead + WORDS["user"] + closing)
    system = said.removeprefix(opening["system"] + lead).removesuffix(closing) if said else None

    def written(roles: Sequence[str]) -> str:
        turns = [(role, WORDS[role]) for role in roles]
        if system is not None and roles[0] != "system":
            turns.insert(0, ("system", system))
        return start + "".join(opening[role] + lead + words + closing for role, words in turns)

    tried = (["user"], ["system", "user"], ["user", "assistant", "user"], ["system", "user", "assistant"])
    if lead.strip() or not closing or any(written(roles) != rendered(roles) for roles in tried):
        raise LabError("This tokenizer's chat template writes turns in a form that is not known here.")
    ids = {role: parse(text) for role, text in opening.items()}
    return Form(parse(start) if start else [], ids, lead, parse(closing), system)


def _split(text: str, marks: Sequence[str]) -> list[str]:
    """What stands before, between and after the marks, in their order; '' where one is not there."""
    parts = []
    for mark in marks:
        part, _, text = text.partition(mark)
        parts.append(part)
    return [*parts, text]


def _render(template: str, messages: list[dict[str, str]], prompt: bool, names: dict[str, Any]) -> str:
    """The template's text. It comes with a checkpoint, so it runs in a sandbox, as in transformers."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(template).render(messages=messages, add_generation_prompt=prompt, **names)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise LabError(f"This tokenizer's chat template cannot be rendered: {error}") from error
