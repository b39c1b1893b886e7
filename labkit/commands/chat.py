"""``labkit chat RUN``: a conversation in the terminal, word by word."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.commands.options import NewTokens, RunFolder, Stage, TopP, parse_options
from labkit.configs import CountOrNone, NonNegative, Seed

if TYPE_CHECKING:
    from labkit.model.transformer import Transformer
    from labkit.text.tokenizer import Tokenizer
    from labkit.world import Message


HELP = """Type a message and press Enter; a line that ends with \\ continues on the next line. Commands:
  /story   print a new TinyWorld story, which your next questions are about
  /new     forget the conversation
  /quit    leave (or Ctrl-D)"""


@dataclass(frozen=True)
class ChatOptions:
    """Talk to a run's model.

    Reads messages from the terminal, or from a pipe, one per line; a line that ends with a backslash continues on the
    next. Commands: /story (a story to ask about), /new (forget the conversation), /help, /quit.
    """

    run: RunFolder
    """The run's folder."""
    stage: Stage = None
    """Use the model after this stage; after the last one when not given."""
    temperature: NonNegative = 0.0
    """Sampling temperature. 0: greedy; 1: sample from the model's distribution."""
    top_k: CountOrNone = 0
    """Sample from the k most probable tokens only; 0: from all."""
    top_p: TopP = 1.0
    """Sample from the smallest set of most probable tokens whose probabilities sum to at least this (nucleus
    sampling)."""
    max_tokens: NewTokens = 150
    """Maximum number of new tokens in a reply."""
    seed: Seed = 0
    """Random seed of sampling."""


def chat(options: ChatOptions) -> int:
    """Read messages from standard input and print the replies as they are made, until it ends."""
    from labkit.runs.folder import Run

    run = Run.open(options.run)
    talk = Conversation(run.model(options.stage), run.tokenizer(), options)
    story = _stories(run.recipe.tinyworld_size, options.seed) if run.recipe.text is None else None
    terminal = sys.stdin.isatty()
    if terminal:
        print(f"The model of {options.run}. /help lists the commands.", file=sys.stderr)
    while True:
        line = read_message(terminal)
        if line is None or line == "/quit":
            return 0
        if line == "/help":
            print(HELP)
        elif line == "/new":
            talk.reset()
        elif line == "/story":
            told = next(story) if story else ""
            talk.reset(told)
            print(told or "This run was trained on real text; it has no TinyWorld stories.")
        elif re.fullmatch(r"/\w+", line):
            print(f"There is no {line}; /help lists the commands.", file=sys.stderr)
        elif line:
            _say(talk, line)


def _say(talk: Conversation, message: str) -> None:
    """Print the reply to a message, piece by piece; what cannot be answered, why, and the conversation goes on."""
    from labkit.errors import LabError, count_with_noun

    try:
        for piece in talk.answer(message):
            print(piece, end="", flush=True)
        print(flush=True)
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
    if talk.forgotten:
        print(
            f"(The context is full; forgotten: {count_with_noun(talk.forgotten, 'message')}, the oldest.)",
            file=sys.stderr,
        )


def read_message(is_terminal: bool) -> str | None:
    """The next line, with those after it that it goes on in; None at the end of the input."""
    lines: list[str] = []
    while True:
        prompt = "... " if lines else "> "
        try:
            line = input(prompt if is_terminal else "")
        except EOFError:
            return "\n".join(lines).strip() if lines else None
        lines.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            return "\n".join(lines).strip()


def _stories(size: str, seed: int) -> Iterator[str]:
    """Stories that no run has been trained on."""
    from labkit.world import World

    world, index = World.load(size), 0
    while True:
        yield world.document("test", seed, index, "story").passage
        index += 1


class Conversation:
    """The turns so far, and the model that makes the next one."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, options: ChatOptions):
        import torch

        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.generator = torch.Generator().manual_seed(options.seed)
        self.reset()

    def reset(self, story: str = "") -> None:
        """Begin anew, with a story that the next message is about, if one is given."""
        self.messages: list[Message] = []
        self.story = story
        self.forgotten = 0

    def answer(self, message: str) -> Iterator[str]:
        """The reply to a message, in pieces as they come.

        Of what was said before, the oldest exchanges are forgotten where the context is full; `forgotten` says how many
        messages. Raises LabError, with the conversation as it was, for a message that does not fit by itself: it is
        never cut.
        """
        from labkit.decoding import stream_tokens
        from labkit.decoding.filters import sampling_filters
        from labkit.decoding.prompts import check_prompt
        from labkit.text.chat import decode_reply
        from labkit.world import Message

        said = Message("user", f"{self.story}\n{message}" if self.story else message)
        messages, prompt = self._fitting([*self.messages, said])
        check_prompt(self.model, prompt)
        self.forgotten = len(self.messages) + 1 - len(messages)
        self.messages, self.story = messages, ""
        options, ids = self.options, []
        tokens = stream_tokens(
            self.model,
            prompt,
            filters=sampling_filters(options.temperature, options.top_k, options.top_p),
            max_new_tokens=options.max_tokens,
            stop_ids=self.tokenizer.stop_ids,
            generator=self.generator,
        )
        shown = text = ""
        for token in tokens:
            ids.append(token)
            text = decode_reply(self.tokenizer, ids)
            if not text.endswith("\ufffd"):  # the rest of a character is still to come
                yield text.removeprefix(shown)
                shown = text
        yield text.removeprefix(shown)
        self.messages.append(Message("assistant", self.tokenizer.decode(ids).strip()))

    def _fitting(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        """The latest of the messages, whole exchanges, that leave room for half a reply; and they as ids. The last one
        is always among them.
        """
        from labkit.text.chat import encode_prompt

        room = self.model.config.context - min(self.options.max_tokens, self.model.config.context // 2)
        ids = encode_prompt(self.tokenizer, messages)
        while len(ids) > room and len(messages) > 1:
            messages = messages[2:]
            ids = encode_prompt(self.tokenizer, messages)
        return messages, ids


def command(arguments: list[str]) -> int:
    """`labkit chat`: its exit code."""
    return chat(parse_options(ChatOptions, "chat", arguments))
