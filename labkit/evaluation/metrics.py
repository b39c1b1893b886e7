"""What each metric of a report means: its name in words, its unit, which way is better, and one line why it matters."""

from __future__ import annotations

from typing import Literal, NamedTuple


def abbreviate_number(number: float) -> str:
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
    better: Literal["higher", "lower", ""]
    meaning: str

    def format(self, value: float) -> str:
        """A value as a reader sees it: 0.975 of a share -> '97.5 %', 1.23456 nats -> '1.235'."""
        if value != value:
            return "not defined"
        if self.unit == "share":
            return f"{100 * value:.1f} %"
        if self.unit == "count":
            return abbreviate_number(value)
        if self.unit == "megabytes":
            return f"{value:,.0f} MB"
        if self.unit == "number":
            return f"{value:,.0f}"
        return f"{value:.2f}" if self.unit == "score" else f"{value:.3f}"


METRICS = {
    "untrained_loss": MetricSpec(
        "validation loss before this stage",
        "nats per token",
        "",
        "The validation loss of the initial model, before the first step of this stage.",
    ),
    "validation_loss": MetricSpec(
        "validation loss",
        "nats per token",
        "lower",
        "Mean cross-entropy per token on held-out text; after fine-tuning, of the assistant's tokens only.",
    ),
    "bits_per_byte": MetricSpec(
        "bits per byte",
        "bits",
        "lower",
        "The validation loss in bits per byte of text, so that models with different tokenizers can be compared.",
    ),
    "nats_per_character": MetricSpec(
        "nats per character",
        "nats",
        "lower",
        "The validation loss per character of text, as character-level models report it.",
    ),
    "mismatched_question_loss": MetricSpec(
        "loss with mismatched questions",
        "nats per token",
        "",
        "The loss on the same answers when each follows the question of another conversation. If it were as small as "
        "the validation loss, the model would be ignoring the question; the larger the gap, the more it uses it.",
    ),
    "validation_tokens": MetricSpec(
        "tokens evaluated", "number", "", "How many tokens the validation loss is averaged over."
    ),
    "grammatical": MetricSpec(
        "grammatical sentences",
        "share",
        "higher",
        "Share of the sentences, in stories sampled without a prompt, that TinyWorld's grammar can parse.",
    ),
    "consistent": MetricSpec(
        "possible events",
        "share",
        "higher",
        "Share of the events in those stories that are possible, given all that happened before them.",
    ),
    "novel": MetricSpec(
        "new stories",
        "share",
        "higher",
        "Share of those stories that are not found word for word in the training documents.",
    ),
    "stories": MetricSpec("stories sampled", "number", "", "How many stories the model generated for these shares."),
    "story_sentences": MetricSpec(
        "sentences in these stories", "number", "", "How many sentences those stories have together."
    ),
    "accuracy": MetricSpec(
        "accuracy",
        "share",
        "higher",
        "Share of held-out questions answered right. Their combinations of people, things and places never occur "
        "together in training.",
    ),
    "accuracy_standard_error": MetricSpec(
        "standard error of the accuracy",
        "share",
        "",
        "How far the accuracy would vary by chance with other questions: in 95 of 100 cases by less than two of these.",
    ),
    "tasks": MetricSpec("questions asked", "number", "", "How many questions the accuracy is measured on."),
    "tasks_left_out": MetricSpec(
        "questions left out",
        "number",
        "",
        "How many held-out questions were so long that the context left too little room for an answer.",
    ),
    "question_only": MetricSpec(
        "accuracy without the story",
        "share",
        "",
        "A baseline that does not read the story: the better of the model's accuracy without the story and that of "
        "always giving the most frequent answer. Only what lies above it comes from reading the story.",
    ),
    "gold": MetricSpec(
        "gold score",
        "score",
        "higher",
        "The true reward of the answers, from 0 to 1, under a simulated annotator (warm, concise or thorough): a right "
        "answer without errors gets at least 0.5, and more the more complete, polite and concise it is, as the "
        "annotator weighs these. TinyWorld's oracle computes it; no stage is trained on it.",
    ),
    "unsupported": MetricSpec(
        "unsupported answers",
        "share",
        "lower",
        "Share of the answers with at least one claim that neither the story nor TinyWorld's facts support "
        "(hallucination).",
    ),
    "pair_accuracy": MetricSpec(
        "preference accuracy",
        "share",
        "higher",
        "Share of the held-out pairs in which the model scores the chosen answer higher (DPO and the like: by the "
        "implicit reward).",
    ),
    "label_accuracy": MetricSpec(
        "accuracy of the labels",
        "share",
        "higher",
        "Share of the held-out answers on the side of their label: the implicit reward of a good answer is above the "
        "reference point, that of a bad one not.",
    ),
    "majority_accuracy": MetricSpec(
        "share of the more frequent label",
        "share",
        "",
        "A baseline without a model: call every held-out answer good, or every one bad.",
    ),
    "answers": MetricSpec(
        "answers evaluated", "number", "", "How many held-out single answers these numbers are computed on."
    ),
    "rating_correlation": MetricSpec(
        "correlation with the ratings",
        "score",
        "higher",
        "Pearson's correlation of scores and ratings over the held-out answers: 1 where one is a rising straight line "
        "of the other, 0 where they have nothing to do with each other.",
    ),
    "rating_error": MetricSpec(
        "squared error of the rating",
        "squared rating",
        "lower",
        "Mean squared difference between the predicted and the given rating over the held-out answers.",
    ),
    "rating_variance": MetricSpec(
        "variance of the ratings",
        "squared rating",
        "",
        "The same difference if the mean of the held-out ratings were always predicted: what the error must be below.",
    ),
    "chosen_logprob": MetricSpec(
        "log-probability of the chosen answers",
        "nats per answer",
        "",
        "Mean over the held-out pairs. It may fall although the chosen answers are preferred ever more clearly: only "
        "the difference between the two answers is trained.",
    ),
    "rejected_logprob": MetricSpec(
        "log-probability of the rejected answers", "nats per answer", "", "The same of the rejected answers."
    ),
    "length_accuracy": MetricSpec(
        "preference accuracy by length",
        "share",
        "",
        "A baseline without a model: always prefer the longer answer, or always the shorter one, whichever is right "
        "more often.",
    ),
    "calibration_error": MetricSpec(
        "calibration error",
        "share",
        "lower",
        "The sigmoid of the difference of two scores is the probability that the higher one is chosen. This is how far "
        "it is from the share in which that answer was chosen, a mean over five groups of the held-out pairs, from the "
        "least sure to the surest. A few points are chance.",
    ),
    "noise_ceiling": MetricSpec(
        "noise ceiling",
        "share",
        "",
        "Share of the held-out pairs in which the annotator chose the answer with the higher gold score. Annotators "
        "make mistakes, so no model can be expected to predict their choices more often.",
    ),
    "gold_accuracy": MetricSpec(
        "accuracy against gold",
        "share",
        "higher",
        "Share of the same pairs in which the model scores the answer with the higher gold score higher: accuracy "
        "without the annotator's mistakes.",
    ),
    "gold_length_accuracy": MetricSpec(
        "accuracy against gold, by length",
        "share",
        "",
        "The length baseline measured against the gold score.",
    ),
    "pairs": MetricSpec(
        "pairs evaluated",
        "number",
        "",
        "How many held-out pairs these shares are computed on.",
    ),
    "left_out": MetricSpec(
        "examples left out",
        "number",
        "",
        "How many training examples (conversations, pairs, lists, answers) were longer than train.max_length and so "
        "were not trained on.",
    ),
    "cut": MetricSpec(
        "examples truncated",
        "number",
        "",
        "How many training examples were longer than train.max_length and lost their end.",
    ),
    "held_out_left_out": MetricSpec(
        "held-out examples left out",
        "number",
        "",
        "How many held-out examples were longer than train.max_length and so were not measured.",
    ),
    "held_out_cut": MetricSpec(
        "held-out examples truncated",
        "number",
        "",
        "How many held-out examples were longer than train.max_length and were measured without their end.",
    ),
    "right": MetricSpec(
        "right answers",
        "share",
        "higher",
        "Share of the answers to this stage's held-out prompts that are right.",
    ),
    "polite": MetricSpec(
        "polite answers",
        "share",
        "higher",
        "Share of those answers that contain a polite phrase, such as “Of course!”.",
    ),
    "gold_gain": MetricSpec(
        "gain in gold score",
        "score",
        "higher",
        "How much higher the gold score of the answers is than the initial model's, a mean over the prompts.",
    ),
    "gold_gain_standard_error": MetricSpec(
        "standard error of the gain",
        "score",
        "",
        "How far the gain would vary by chance with other prompts; a gain of more than two of these is hardly chance.",
    ),
    "win_rate": MetricSpec(
        "win rate against the initial model",
        "share",
        "higher",
        "Share of the prompts on which this model's answer has the higher gold score; a tie is half a win.",
    ),
    "win_low": MetricSpec(
        "win rate, lower bound",
        "share",
        "",
        "The lower end of the win rate's 95 % interval.",
    ),
    "win_high": MetricSpec(
        "win rate, upper bound",
        "share",
        "",
        "The upper end of the win rate's 95 % interval.",
    ),
    "satisfaction": MetricSpec(
        "satisfaction",
        "",
        "higher",
        "How content simulated users are at the end of a conversation: the share of their questions that were "
        "answered right, less 0.1 for each that had to be asked again, and up to 0.2 more where answers are polite "
        "and the annotator's profile values that. A mean over held-out users.",
    ),
    "satisfaction_gain": MetricSpec(
        "gain in satisfaction",
        "",
        "higher",
        "How much more content the same users are than with the initial model.",
    ),
    "satisfaction_gain_standard_error": MetricSpec(
        "standard error of the gain in satisfaction",
        "",
        "",
        "How far that gain would vary by chance with other users; more than two of these is hardly chance.",
    ),
    "control_gold_gain": MetricSpec(
        "gain of more fine-tuning instead",
        "score",
        "",
        "The control: the gain in gold score when supervised fine-tuning goes on for as many seconds instead of this "
        "stage.",
    ),
    "control_right": MetricSpec(
        "right answers of more fine-tuning instead",
        "share",
        "",
        "Share of right answers of the same control.",
    ),
    "prompts": MetricSpec(
        "prompts evaluated",
        "number",
        "",
        "How many held-out prompts both models answered.",
    ),
    "prompts_left_out": MetricSpec(
        "prompts left out",
        "number",
        "",
        "How many held-out prompts were so long that the context left too little room for an answer.",
    ),
    "reward": MetricSpec(
        "reward",
        "",
        "",
        "Mean score of the reward model for the answers to held-out prompts. It has no absolute zero: only "
        "differences mean something.",
    ),
    "training_reward": MetricSpec(
        "reward of training",
        "",
        "higher",
        "Mean of the reward that this stage was trained on, for the answers to held-out prompts.",
    ),
    "reward_win_rate": MetricSpec(
        "win rate by reward",
        "share",
        "",
        "Share of the prompts on which the reward model scores this model's answer above the initial model's. It shows "
        "that the reward went up, not that the answers are better.",
    ),
}
