"""The chat template of a published checkpoint: conversations -> token ids, and which of them the assistant says.

A template is a program in Jinja that writes a whole conversation as one text
(https://huggingface.co/docs/transformers/chat_templating). It is run as transformers runs it, and the text is encoded
whole, so that the ids are transformers' own. What the assistant says is found in one of two ways:

- the template says so itself, with `{% generation %}` … `{% endgeneration %}`;
- otherwise a turn begins where the prompt for it ends, and its words end where the text goes on the same whatever they
  were; with them counts what stands up to the token that ends the turn.

Special tokens are the template's to write. In a message they are text, as with transformers'
`sanitize_control_tokens=True`; added tokens that are not special, as `<think>`, are one token in both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import tokenizers

from labkit.errors import LabError
from labkit.text.jinja import BEGIN, END, compile_template

Turn = tuple[str, str]
"""(role, content)."""

OPEN, CLOSE, WORDS = "\U0010ff00", "\U0010ff01", "\U0010ff02"
"""Private characters: around a special token that somebody has typed, and in place of an assistant's words."""
MARKS = str.maketrans(dict.fromkeys(f"{OPEN}{CLOSE}{WORDS}{BEGIN}{END}"))
SPOKEN = "Is it so?\n\nNo: it is  NOT, 1 < 2 & 'so'."
"""What an assistant may say, and every template has to leave as it is."""
PROBE: tuple[Turn, ...] = (("user", "Hello"), ("assistant", "Hi"), ("user", "Thanks"), ("assistant", "Bye"))
MEND = "With `labkit import … --chat-template plain` turns are formatted as 'user: …' instead."


class AssistantSpan(NamedTuple):
    """Characters start_character … end_character - 1 of a text, said by the assistant. includes_turn_end: whether the
    turn's end is among them.
    """

    start_character: int
    end_character: int
    includes_turn_end: bool


class ChatTemplate:
    """`encode(turns, add_generation_prompt=True)` for what the assistant is to answer, `encode_with_mask(turns)` for
    what it is to learn.

    `turn_end_id` is the token that ends an assistant's turn; `leading_space` the blanks between a prompt and the words
    that follow.
    """

    def __init__(
        self, template: str, variables: Mapping[str, Any], backend: tokenizers.Tokenizer, stop_ids: Collection[int]
    ):
        """template: in Jinja, as chat_template. variables: what it may ask for, as bos_token. stop_ids: ids that end a
        text.

        Raises LabError for a template that cannot be rendered, and for one that changes what the assistant says, in
        which it cannot be seen, or that ends its turns with no token.
        """
        self.template, self.names = template, dict(variables)
        self.tagged = re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None
        self.plain = backend
        self.parser = tokenizers.Tokenizer.from_str(backend.to_str())  # reads special tokens, which `plain` does not
        self.special = {token.content: i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        longest = sorted(map(re.escape, self.special), key=len, reverse=True)
        self.spelt = re.compile("|".join(longest) or "(?!)")
        self.marked = re.compile(f"{OPEN}({self.spelt.pattern}){CLOSE}|[{OPEN}{CLOSE}]")
        self.ends = {*stop_ids, *self.special.values()}
        self._check_words()
        self.turn_end_id = self._probe()
        self.ends = {*stop_ids, self.turn_end_id}
        prompt, whole = self._render(PROBE[:1], prompt=True)[0], self._render((PROBE[0], ("assistant", WORDS)))[0]
        between = whole.removeprefix(prompt).partition(WORDS)[0]
        self.leading_space = between if between.isspace() else ""

    def encode(self, turns: Sequence[Turn], add_generation_prompt: bool = False) -> list[int]:
        """A conversation -> its ids; with `add_generation_prompt`, up to where the assistant answers."""
        return self._encode(self._render(self._sanitized(turns), add_generation_prompt)[0])[0]

    def encode_with_mask(
        self, turns: Sequence[Turn], trained_turns: Collection[int] | None = None
    ) -> tuple[list[int], list[bool]]:
        """A conversation -> its ids, and which of them the assistant says: its words and the token that ends them.

        trained_turns: the turns of the assistant that count; None for all.
        """
        turns = self._sanitized(turns)
        text, tagged = self._render(turns)
        answers = [place for place, turn in enumerate(turns) if turn[0] == "assistant"]
        if self.tagged and len(tagged) != len(answers):
            raise LabError(f"This tokenizer's chat template does not mark each of the assistant's turns once. {MEND}")
        counted = [n for n, place in enumerate(answers) if trained_turns is None or place in trained_turns]
        spans = [tagged[n] if self.tagged else self._span(text, turns, answers[n]) for n in counted]
        ids, places = self._encode(text)
        said = [
            any(end > span.start_character and start < span.end_character for span in spans) for start, end in places
        ]
        for span in spans:
            if not span.includes_turn_end:
                self._close(span, ids, places, said)
        return ids, said

    def encode_continuation(self, text: str) -> list[int]:
        """The ids of a text that stands after others: SentencePiece puts no blank before it."""
        return self._piece(self.plain, text, 0)[0]

    def check(self, turns: Sequence[Turn]) -> None:
        """Raises LabError for turns that the template refuses, as some do those of a system."""
        self._render(self._sanitized(turns))

    def _check_words(self) -> None:
        """Raises LabError where an answer is in capitals, escaped or cut in the text: it would be learned so."""
        text = self._render((PROBE[0], ("assistant", SPOKEN)))[0]
        if SPOKEN not in text and "Is it so?".lower() in text.lower():
            raise LabError(f"This tokenizer's chat template changes the assistant's messages. {MEND}")

    def _probe(self) -> int:
        """The token that ends an assistant's turn: the last of the special ones that count in it."""
        ids, said = self.encode_with_mask(PROBE)
        runs = [list(run) for counts, run in groupby(range(len(ids)), said.__getitem__) if counts]
        closing = {next((ids[i] for i in reversed(run) if ids[i] in self.ends), None) for run in runs}
        if len(runs) != len(PROBE) // 2 or len(closing) != 1 or None in closing:
            raise LabError(f"This tokenizer's chat template ends an assistant's turn with no end token. {MEND}")
        return next(token for token in closing if token is not None)

    def _span(self, text: str, turns: Sequence[Turn], index: int) -> AssistantSpan:
        """Where turn `index` is said in the text of all: from the end of its prompt to the end of its words."""
        prompt = self._render(turns[:index], prompt=True)[0] if index else ""
        without = [*turns[:index], ("assistant", WORDS), *turns[index + 1 :]]
        before, found, after = self._render(without)[0].partition(WORDS)
        start, end = len(prompt) if prompt and text.startswith(prompt) else len(before), len(text) - len(after)
        if not found or not text.startswith(before[:start]) or not text.endswith(after) or start > end:
            raise LabError(
                "This tokenizer's chat template changes the assistant's messages so that it cannot be found again in "
                f"the text ({turns[index][1][:60]!r}). {MEND}"
            )
        return AssistantSpan(start, end, includes_turn_end=False)

    def _close(self, span: AssistantSpan, ids: list[int], places: list[tuple[int, int]], said: list[bool]) -> None:
        """Count what stands between the words and the token that ends them, and the token."""
        after = [i for i, (start, _) in enumerate(places) if start >= span.end_character and not said[i]]
        for n, i in enumerate(after):
            if ids[i] in self.ends:
                for j in after[: n + 1]:
                    said[j] = True
                return

    def _sanitized(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns with the special tokens that they spell between marks, and without marks of their own."""
        mark = f"{OPEN}\\g<0>{CLOSE}"
        return [(role, self.spelt.sub(mark, content.translate(MARKS))) for role, content in turns]

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """A text with marks -> its ids, and from which to which character each stands for."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for piece, start, typed in self._pieces(text):
            backend = self.plain if typed else self.parser
            more, there = self._piece(backend, piece, start) if start else _encoded(backend, piece, 0)
            ids, places = ids + more, places + there
        return ids, places

    def _pieces(self, text: str) -> Iterator[tuple[str, int, bool]]:
        """(piece, where it begins, whether it is a special token that somebody typed)."""
        at = 0
        for found in self.marked.finditer(text):
            if at < found.start():
                yield text[at : found.start()], at, False
            if found[1]:
                yield found[1], found.start(1), True
            at = found.end()
        if at < len(text):
            yield text[at:], at, False

    def _piece(self, backend: tokenizers.Tokenizer, text: str, start: int) -> tuple[list[int], list[tuple[int, int]]]:
        """A piece from inside a text. It is encoded after a new line, for SentencePiece puts a blank before a text."""
        newline = backend.encode("\n", add_special_tokens=False).ids
        ids, places = _encoded(backend, f"\n{text}", start - 1)
        if ids[: len(newline)] == newline:
            return ids[len(newline) :], places[len(newline) :]
        return _encoded(backend, text, start)

    def _render(self, turns: Sequence[Turn], prompt: bool = False) -> tuple[str, list[AssistantSpan]]:
        """The text, and what the template itself says is the assistant's."""
        messages = [{"role": role, "content": content} for role, content in turns]
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt}
        try:
            text = compile_template(self.template).render(**{**self.names, **given})
        except Exception as error:  # whatever a program from elsewhere may raise
            raise LabError(f"This tokenizer's chat template cannot be rendered: {error} {MEND}") from error
        spans: list[AssistantSpan] = []
        pieces = re.split(f"{BEGIN}(.*?){END}", text, flags=re.DOTALL)
        at = 0
        for place, piece in enumerate(pieces):
            if place % 2 and piece:
                spans.append(AssistantSpan(at, at + len(piece), includes_turn_end=True))
            at += len(piece)
        return "".join(pieces), spans


def _encoded(backend: tokenizers.Tokenizer, text: str, start: int) -> tuple[list[int], list[tuple[int, int]]]:
    encoding = backend.encode(text, add_special_tokens=False)
    return encoding.ids, [(first + start, last + start) for first, last in encoding.offsets]
