"""What each number of a report means: its name in words, its unit, which way is better, and one line why it matters."""

from __future__ import annotations

from typing import NamedTuple


def format_count(number: float) -> str:
    """A large number in three digits: 1234 -> '1.23k', 2.5e12 -> '2.5T'."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


class MetricSpec(NamedTuple):
    """label: the metric's name in words. unit: "share" (0 to 1, shown as %), "score" (0 to 1), "number", "count" (in
    three digits), "megabytes", or words. better: "higher", "lower", or "" where neither is. meaning: one line for
    someone who meets it for the first time.
    """

    label: str
    unit: str
    better: str
    meaning: str

    def format(self, value: float) -> str:
        """A value as a reader sees it: 0.975 of a share -> '97.5 %', 1.23456 nats -> '1.235'."""
        if value != value:
            return "not defined"
        if self.unit == "share":
            return f"{100 * value:.1f} %"
        if self.unit == "count":
            return format_count(value)
        if self.unit == "megabytes":
            return f"{value:,.0f} MB"
        if self.unit == "number":
            return f"{value:,.0f}"
        return f"{value:.2f}" if self.unit == "score" else f"{value:.3f}"


METRICS = {
    "untrained_loss": MetricSpec(
        "loss before this stage",
        "nats per token",
        "",
        "The validation loss of the initial model, before the first step of this stage.",
    ),
    "validation_loss": MetricSpec(
        "validation loss",
        "nats per token",
        "lower",
        "How surprised the model is by each next token of text that it was not trained on.",
    ),
    "bits_per_byte": MetricSpec(
        "bits per byte",
        "bits",
        "lower",
        "The same surprise counted per byte of text, so that models with different tokenizers can be compared.",
    ),
    "nats_per_character": MetricSpec(
        "nats per character",
        "nats",
        "lower",
        "The same surprise counted per character, as character-level models report it.",
    ),
    "mismatched_question_loss": MetricSpec(
        "loss after another question",
        "nats per token",
        "",
        "The loss on the same answers when each follows the question of another conversation. If it were as small as "
        "the validation loss, the model would be answering without reading the question; the gap is what it reads.",
    ),
    "validation_tokens": MetricSpec(
        "tokens measured", "number", "", "How many tokens the validation loss is a mean of."
    ),
    "grammatical": MetricSpec(
        "grammatical", "share", "higher", "Share of the sentences in freely written stories that the grammar can parse."
    ),
    "consistent": MetricSpec(
        "consistent",
        "share",
        "higher",
        "Share of the events in those stories that can happen, given all that happened before them.",
    ),
    "novel": MetricSpec(
        "novel", "share", "higher", "Share of those stories that are not in the training text word for word."
    ),
    "stories": MetricSpec("stories measured", "number", "", "How many stories the model wrote for these shares."),
    "story_sentences": MetricSpec("their sentences", "number", "", "How many sentences those stories have."),
    "accuracy": MetricSpec(
        "answers right",
        "share",
        "higher",
        "Share of questions answered right, about combinations that never occur together in training.",
    ),
    "accuracy_standard_error": MetricSpec(
        "its standard error",
        "share",
        "",
        "How far the share of right answers would move by chance with other questions; twice this is a difference.",
    ),
    "tasks": MetricSpec("questions asked", "number", "", "How many questions that share is of."),
    "tasks_left_out": MetricSpec(
        "questions left out", "number", "", "How many held-out questions left too little room for an answer."
    ),
    "question_only": MetricSpec(
        "right without the story",
        "share",
        "",
        "What the question alone gives: the story is dropped, or the most common answer is always given. "
        "Only what lies above it was read in the story.",
    ),
    "gold": MetricSpec(
        "gold score",
        "score",
        "higher",
        "How much one kind of annotator would like the answers: right, complete, fluent, polite, concise.",
    ),
    "unsupported": MetricSpec(
        "unsupported",
        "share",
        "lower",
        "Share of answers that assert what neither the story nor the facts say (hallucination).",
    ),
    "pair_accuracy": MetricSpec(
        "pairs ranked right",
        "share",
        "higher",
        "Share of held-out pairs of answers that the model ranks as the annotator chose.",
    ),
    "length_accuracy": MetricSpec(
        "ranked by length alone",
        "share",
        "",
        "The same when the longer answer always wins, or always the shorter one: what needs no model at all.",
    ),
    "noise_ceiling": MetricSpec(
        "choices that gold agrees with",
        "share",
        "",
        "How often the annotator chose what their own taste holds better: nobody can foresee the choices more "
        "often than that.",
    ),
    "gold_accuracy": MetricSpec(
        "pairs ranked as gold ranks them",
        "share",
        "higher",
        "The same pairs against the annotator's taste itself, without the mistakes that annotators make.",
    ),
    "gold_length_accuracy": MetricSpec(
        "by length alone, against gold",
        "share",
        "",
        "How far length alone would come against the annotator's taste.",
    ),
    "pairs": MetricSpec(
        "pairs measured",
        "number",
        "",
        "How many held-out pairs these shares are of.",
    ),
    "left_out": MetricSpec(
        "examples left out",
        "number",
        "",
        "How many training examples (conversations, pairs) were longer than train.max_length, and so were not learnt "
        "from.",
    ),
    "cut": MetricSpec(
        "examples cut",
        "number",
        "",
        "How many training examples were longer than train.max_length and lost their end.",
    ),
    "held_out_left_out": MetricSpec(
        "held-out examples left out",
        "number",
        "",
        "How many held-out examples were longer than train.max_length, so that nothing of them was measured.",
    ),
    "held_out_cut": MetricSpec(
        "held-out examples cut",
        "number",
        "",
        "How many held-out examples were longer than train.max_length and were measured without their end.",
    ),
    "right": MetricSpec(
        "right",
        "share",
        "higher",
        "Share of answers to the same held-out prompts that are right.",
    ),
    "polite": MetricSpec(
        "polite",
        "share",
        "higher",
        "Share of answers with a courtesy.",
    ),
    "gold_gain": MetricSpec(
        "gold gained",
        "score",
        "higher",
        "How much higher the annotator's gold score of the answers is than before this stage, prompt by prompt.",
    ),
    "gold_gain_standard_error": MetricSpec(
        "its standard error",
        "score",
        "",
        "How far the gain would move by chance with other prompts; a gain of more than two of these is hardly chance.",
    ),
    "win_rate": MetricSpec(
        "wins over the model before",
        "share",
        "higher",
        "Share of prompts on which the annotator likes this model's answer better; a tie is half a win.",
    ),
    "win_low": MetricSpec(
        "at least",
        "share",
        "",
        "The lower end of the win rate's 95 % interval.",
    ),
    "win_high": MetricSpec(
        "at most",
        "share",
        "",
        "The upper end of the win rate's 95 % interval.",
    ),
    "control_gold_gain": MetricSpec(
        "gold gained by more fine-tuning",
        "score",
        "",
        "What the seconds that this stage took would have brought as supervised fine-tuning: the control.",
    ),
    "control_right": MetricSpec(
        "right, after more fine-tuning",
        "share",
        "",
        "Share of right answers of that control.",
    ),
    "prompts": MetricSpec(
        "prompts measured",
        "number",
        "",
        "How many held-out prompts both models answered.",
    ),
    "prompts_left_out": MetricSpec(
        "prompts left out",
        "number",
        "",
        "How many held-out prompts left too little room for an answer, so that nothing of them was measured.",
    ),
    "reward": MetricSpec(
        "reward",
        "",
        "",
        "What the reward model says of the answers to held-out prompts. It has no unit: only differences count.",
    ),
    "reward_win_rate": MetricSpec(
        "wins by the reward model",
        "share",
        "",
        "Share of prompts on which the reward model prefers this answer to the one before this stage. It says "
        "that the reward went up, not that the answers are better.",
    ),
}
