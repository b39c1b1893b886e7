"""Talking to a run's model in the terminal: a conversation, word by word, and texts written on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from labkit.configs import Count, CountOrNone, NonNegative, Range, Seed

if TYPE_CHECKING:
    from labkit.decoding import Filter
    from labkit.decoding.strategies import Beside
    from labkit.model.transformer import Transformer
    from labkit.runs.folder import Run
    from labkit.text.tokenizer import Tokenizer
    from labkit.world import Message, Task, World

RunFolder = Annotated[Positional[Path], arg(metavar="RUN", help_behavior_hint="")]
Stage = Annotated[str | None, arg(metavar="STAGE", help_behavior_hint="")]
Stops = Annotated[tuple[str, ...], arg(metavar="TEXT [TEXT ...]", help_behavior_hint="")]

NewTokens = Annotated[int, Range(1, 2**20)]
TopP = Annotated[float, Range(0, 1, above=True)]

HELP = """Type a message and press enter; a line that ends with \\ goes on in the next. Other things to type:
  /story   a new story of the world, for your next questions to be about
  /new     forget the conversation
  /quit    leave (or ctrl-D)"""


@dataclass(frozen=True)
class ChatOptions:
    """Talk to the model of a run.

    Reads messages from the terminal, or one a line from a pipe. A line that ends with a backslash goes on in the next;
    every other character is taken as it is.
    """

    run: RunFolder
    """The run's folder."""
    stage: Stage = None
    """The model after this stage; after the last when not given."""
    temperature: NonNegative = 0.0
    """0 always says the likeliest; 1 draws as the model thinks."""
    top_k: CountOrNone = 0
    """Draw among so many likeliest tokens; 0 among all."""
    top_p: TopP = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    max_tokens: NewTokens = 150
    """The longest reply."""
    seed: Seed = 0
    """Of the draws."""


@dataclass(frozen=True)
class GenerateOptions:
    """Let the model of a run write on from a beginning."""

    run: RunFolder
    """The run's folder."""
    prompt: str = ""
    """The beginning; without one the model begins a text itself. It is taken as it is, backslashes too; a new line is
    what the shell makes one, as in $'one line\\nanother'."""
    chat: Annotated[bool, arg(help_behavior_hint="")] = False
    """Take the prompt as a message, and write the reply to it."""
    count: Count = 1
    """How many to write."""
    stage: Stage = None
    """The model after this stage; when not given, after the last with --chat, else after the first."""
    temperature: NonNegative = 1.0
    """0 always says the likeliest; 1 draws as the model thinks."""
    top_k: CountOrNone = 0
    """Draw among so many likeliest tokens; 0 among all."""
    top_p: TopP = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    strategy: Annotated[str | None, arg(metavar="LINE", help_behavior_hint="")] = None
    """In place of the three before: a line in quotes, as "beam beams=4", "contrastive k=5 alpha=0.6", "best n=8" (the
    one that the run's reward model likes most), "speculative ahead=4" (with --draft) or "repetition=1.2 temperature=0.8
    min-p=0.1 ban=dog"; filters work in the order in which they stand."""
    stop: Stops = ()
    """Texts at which writing ends, taken as they are."""
    draft: Path | None = None
    """For speculative: the folder of the draft's run, which must have the same tokenizer."""
    max_tokens: NewTokens = 200
    """The longest text."""
    seed: Seed = 0
    """Of the draws."""


def filters(temperature: float, top_k: int, top_p: float) -> list[Filter]:
    """filters(0.8, 40, 1.0) -> [Temperature(0.8), TopK(40)]: what changes nothing is left out."""
    from labkit.decoding import Temperature, TopK, TopP

    chosen: list[Filter] = [Temperature(temperature)] if temperature != 1 else []
    chosen += [TopK(top_k)] if top_k else []
    return chosen + ([TopP(top_p)] if top_p != 1 else [])


def write(options: GenerateOptions) -> int:
    """Print ``count`` texts, with an empty line between them."""
    import torch

    from labkit.decoding import generate
    from labkit.decoding.strategies import parse
    from labkit.errors import LabError
    from labkit.runs.folder import Run
    from labkit.text.chat import decode_reply, encode_opening, encode_prompt
    from labkit.world import Message

    if options.strategy is not None and filters(options.temperature, options.top_k, options.top_p):
        raise LabError("--strategy takes the place of --temperature, --top-k and --top-p: write them into its line.")
    run = Run.open(options.run)
    tokenizer = run.tokenizer()
    model = run.model(options.stage or (None if options.chat else next(iter(run.recipe.stages))))
    begun = options.prompt
    if options.chat and not begun.strip():
        raise LabError("There is nothing to reply to: say it with --prompt.")
    if options.chat:
        prompt = encode_prompt(tokenizer, [Message("user", begun)])
    else:  # real text is read as it is, without a space before it
        prompt = encode_opening(tokenizer, begun, lead=run.recipe.text is None)
    beside = beside_of(run, options.stop, options.draft)
    limits: dict[str, Any] = {"max_new_tokens": options.max_tokens, "stop_ids": tokenizer.stops}
    if options.strategy is not None:
        seeds = range(options.seed, options.seed + options.count)
        written = parse(options.strategy).write(model, prompt, seeds=seeds, beside=beside, **limits)
    else:
        steps, generator = (
            filters(options.temperature, options.top_k, options.top_p),
            torch.Generator().manual_seed(options.seed),
        )
        written = generate(
            model, [prompt] * options.count, steps=steps, stop=beside.stops(), generator=generator, **limits
        )
    if options.chat or not begun:
        print("\n\n".join(decode_reply(tokenizer, ids) for ids in written))
    else:
        print("\n\n".join(begun + tokenizer.continuation(prompt, ids) for ids in written))
    return 0


def beside_of(
    run: Run,
    stop: Sequence[str] = (),
    draft: Path | None = None,
    world: World | None = None,
    tasks: Mapping[tuple[int, ...], Task] | None = None,
) -> Beside:
    """What strategies need beside a run's model: its tokenizer, a draft's model, and as judge the run's reward model,
    or else the oracle of these tasks. Raises LabError for a draft that reads other tokens.
    """
    from labkit.decoding.strategies import Beside
    from labkit.errors import LabError
    from labkit.evaluation.judges import by_oracle, by_reward
    from labkit.runs.folder import Run

    tokenizer, smaller, judge = run.tokenizer(), None, None
    if draft is not None:
        other = Run.open(draft)
        smaller = other.model()
        if other.tokenizer().backend.to_str() != tokenizer.backend.to_str():
            raise LabError(f"{draft} has another tokenizer than {run.path}: a draft must read the same tokens.")
    if any(stage.name == "reward" and stage.trained for stage in run.stages):
        judge = by_reward(run.stage("reward").scorer(), tokenizer)
    elif world is not None and tasks:
        judge = by_oracle(world, tasks, next(iter(world.profiles)), tokenizer)
    return Beside(tokenizer, tuple(stop), smaller, judge)


def chat(options: ChatOptions) -> int:
    """Read messages from standard input and print the replies as they are made, until it ends."""
    from labkit.runs.folder import Run

    run = Run.open(options.run)
    talk = Conversation(run.model(options.stage), run.tokenizer(), options)
    story = _stories(run.recipe.world_size, options.seed) if run.recipe.text is None else None
    terminal = sys.stdin.isatty()
    if terminal:
        print(f"The model of {options.run}. /help says what can be typed.", file=sys.stderr)
    while True:
        line = message(terminal)
        if line is None or line == "/quit":
            return 0
        if line == "/help":
            print(HELP)
        elif line == "/new":
            talk.forget()
        elif line == "/story":
            print(
                talk.tell(next(story)) if story else "This run has read real text; there are no stories of the world."
            )
        elif re.fullmatch(r"/\w+", line):
            print(f"There is no {line}; /help says what can be typed.", file=sys.stderr)
        elif line:
            _say(talk, line)


def _say(talk: Conversation, message: str) -> None:
    """Print the reply to a message, piece by piece; what cannot be answered, why, and the conversation goes on."""
    from labkit.errors import LabError

    try:
        for piece in talk.answer(message):
            print(piece, end="", flush=True)
        print(flush=True)
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
    if talk.forgotten:
        print(f"(The context is full: the first {talk.forgotten} messages are forgotten.)", file=sys.stderr)


def message(terminal: bool) -> str | None:
    """The next line, with those after it that it goes on in; None at the end of the input."""
    lines: list[str] = []
    while True:
        prompt = "... " if lines else "> "
        try:
            line = input(prompt if terminal else "")
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
        yield world.document("test", seed, index, "story").text
        index += 1


class Conversation:
    """The turns so far, and the model that makes the next one."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, options: ChatOptions):
        import torch

        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.generator = torch.Generator().manual_seed(options.seed)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.messages: list[Message] = []
        self.story = ""
        self.forgotten = 0

    def tell(self, story: str) -> str:
        """Begin anew with a story that the next message is about; returns it."""
        self.forget()
        self.story = story
        return story

    def answer(self, message: str) -> Iterator[str]:
        """The reply to a message, in pieces as they come.

        Of what was said before, the oldest exchanges are forgotten where the context is full; `forgotten` says how many
        messages. Raises LabError, with the conversation as it was, for a message that does not fit by itself: it is
        never cut.
        """
        from labkit.decoding import stream
        from labkit.decoding.prompts import check_prompt
        from labkit.text.chat import decode_reply
        from labkit.world import Message

        said = Message("user", f"{self.story}\n{message}" if self.story else message)
        messages, prompt = self._fitting([*self.messages, said])
        check_prompt(self.model, prompt)
        self.forgotten = len(self.messages) + 1 - len(messages)
        self.messages, self.story = messages, ""
        options, ids = self.options, []
        tokens = stream(
            self.model,
            prompt,
            steps=filters(options.temperature, options.top_k, options.top_p),
            max_new_tokens=options.max_tokens,
            stop_ids=self.tokenizer.stops,
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
