"""The exercises of notebook 07b, policy gradients."""

from __future__ import annotations

from labkit.course.checkers import Choice, Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "Policy gradients"

AXIS_OF_TROUBLE = {
    "noise": "baseline",
    "runaway": "clipping",
    "length": "loss_mean",
    "alike": "num_generations",
    "gamed": "reward",
}


def leave_one_out(scores: list[float]) -> list[float]:
    """Each score less the mean of all others."""
    return [score - (sum(scores) - score) / (len(scores) - 1) for score in scores]


def group_mean(scores: list[float]) -> list[float]:
    return [score - sum(scores) / len(scores) for score in scores]


def k1_in_the_loss() -> str:
    """The gradient of log π(token), weighed by π and summed over the tokens, is the gradient of 1, which is 0.

    log π₀ has no gradient. So a step on the rollout's own tokens is pushed nowhere in particular.
    """
    return "nothing but noise"


def token_weight(lengths: list[int], mean: str, max_new_tokens: int) -> list[float]:
    """1 over all tokens of the batch; or over the answers, and then over the answer's own length or the constant."""
    if mean == "token":
        return [1 / sum(lengths) for _ in lengths]
    return [1 / (len(lengths) * (length if mean == "answer" else max_new_tokens)) for length in lengths]


def _swapped(lengths: list[int], mean: str, max_new_tokens: int) -> list[float]:
    return token_weight(lengths, {"answer": "constant", "constant": "answer"}.get(mean, mean), max_new_tokens)


def share_alike(p: float, num_generations: int) -> float:
    """All right, or all wrong."""
    return p**num_generations + (1 - p) ** num_generations


def more_to_compare(alike: float, kl: float, clip_fraction: float) -> str:
    """Most prompts teach nothing, as their answers are all rewarded alike: more answers to each would differ.

    Nothing is clipped, and the policy is near the reference, where the KL weighs little: neither holds it back.
    """
    return "num_generations" if alike > clip_fraction else "clipping"


def axis_of_trouble() -> dict[str, str]:
    """noise: what is common to all rewards is for the baseline to take off. runaway: clipping ends the pull of one
    rollout. length: loss_mean weighs tokens. alike: more answers to a prompt differ sooner. gamed: what is paid for is
    the reward's affair.
    """
    return AXIS_OF_TROUBLE


EXERCISES = (
    Exercise(
        "07b.1",
        "Write leave_one_out(scores): of the answers to one prompt, each score less the mean of the other scores. "
        "There are at least two.",
        leave_one_out,
        Function(lambda: [([1.0, 0.0, 0.0, 0.0],), ([2.0, -1.0, 0.5],), ([3.0, 3.0],), ([0.0, 5.0],)]),
        (
            Mistake(
                "own score in the mean",
                group_mean,
                "This is the mean of the whole group. Should an answer be compared with itself?",
            ),
            Mistake(
                "divided by all",
                lambda scores: [score - (sum(scores) - score) / len(scores) for score in scores],
                "The others' sum is right. How many others are there?",
            ),
            Mistake(
                "the others alone",
                lambda scores: [(sum(scores) - score) / (len(scores) - 1) for score in scores],
                "This is the baseline of each answer. What is compared with it?",
            ),
            Mistake(
                "sign",
                lambda scores: [-advantage for advantage in leave_one_out(scores)],
                "The sign is wrong: a better answer should get the higher advantage.",
            ),
        ),
    ),
    Exercise(
        "07b.2",
        "Were k1 in the loss, as kl=KLInLoss(coef=0.04), what would the KL term do to the policy on the first step "
        "after a rollout?",
        k1_in_the_loss,
        Choice(
            (
                "it holds it to the reference",
                "it pushes it away from the reference",
                "nothing but noise",
                "nothing at all",
            )
        ),
        (
            Mistake(
                "estimate for gradient",
                "it holds it to the reference",
                "The mean of k1 is the KL. Is the mean of its gradient the KL's gradient? Look at the last figure.",
            ),
            Mistake(
                "pushed away",
                "it pushes it away from the reference",
                "log π₀ has no gradient, so k1's gradient knows no reference. Which way could it push?",
            ),
            Mistake(
                "mean for every draw",
                "nothing at all",
                "That is right of the mean over all draws. Is it 0 for the few tokens of one rollout?",
            ),
        ),
    ),
    Exercise(
        "07b.3",
        "Write token_weight(lengths, mean, max_new_tokens): for each answer of a batch, what one of its tokens weighs "
        'in the loss. lengths: tokens of each answer; mean is "token", "answer" or "constant".',
        token_weight,
        Function(
            lambda: [
                *(([4, 16], mean, 40) for mean in ("token", "answer", "constant")),
                *(([1, 2, 9], mean, 12) for mean in ("token", "answer", "constant")),
            ]
        ),
        (
            Mistake(
                "number of answers forgotten",
                lambda lengths, mean, max_new_tokens: [
                    weight if mean == "token" else weight * len(lengths)
                    for weight in token_weight(lengths, mean, max_new_tokens)
                ],
                "The mean over an answer's tokens is right. What is the mean over answers still divided by?",
            ),
            Mistake(
                "per answer in every case",
                lambda lengths, mean, max_new_tokens: token_weight(lengths, "answer", max_new_tokens),
                "This is right for one of the three. What does the setting `mean` change?",
            ),
            Mistake(
                "answer and constant exchanged",
                _swapped,
                'Which of the two looks at the answer\'s own length: "answer" or "constant"?',
            ),
            Mistake(
                "weight of the whole answer",
                lambda lengths, mean, max_new_tokens: [
                    weight * length
                    for weight, length in zip(token_weight(lengths, mean, max_new_tokens), lengths, strict=True)
                ],
                "This is what all tokens of an answer weigh together. How much is one of them?",
            ),
        ),
    ),
    Exercise(
        "07b.4",
        "Write share_alike(p, num_generations): a prompt is answered right with probability p, reward 1, else 0. How "
        "probable is it that the answers of its group are all rewarded alike?",
        share_alike,
        Function(lambda: [(0.5, 4), (0.9, 4), (0.9, 8), (0.2, 2), (1.0, 4)]),
        (
            Mistake(
                "all right alone",
                lambda p, num_generations: p**num_generations,
                "These are the groups that are right throughout. Which other groups are alike?",
            ),
            Mistake(
                "other than the first",
                lambda p, num_generations: p ** (num_generations - 1),
                "All have to be like the first answer, which may be wrong as well as right.",
            ),
            Mistake(
                "those that differ",
                lambda p, num_generations: 1 - share_alike(p, num_generations),
                "These are the groups that teach something.",
            ),
        ),
    ),
    Exercise(
        "07b.5",
        "The run with the verifier learns little. Means over its steps: `alike` of frac_reward_zero_std, `kl` in nats "
        "per answer, and `clip_fraction`. Which setting would you change first?",
        more_to_compare,
        Choice(
            ("clipping", "kl", "num_generations", "loss_mean"),
            given={"alike": 0.6, "kl": 0.2, "clip_fraction": 0.0},
        ),
        (
            Mistake(
                "clipping",
                "clipping",
                "With one step on each rollout every ratio is 1. How many tokens were clipped?",
            ),
            Mistake(
                "kl",
                "kl",
                "The policy is near the reference. Did the price of a nat hold it, or did few prompts pull at it?",
            ),
            Mistake(
                "loss_mean",
                "loss_mean",
                "However tokens are weighed: which advantage do they have where all answers are rewarded alike?",
            ),
        ),
    ),
    Exercise(
        "07b.6",
        "Five troubles were measured above: noise, runaway, length, alike and gamed. Which setting answers which? Each "
        "of baseline, clipping, loss_mean, num_generations and reward once, as a dictionary from trouble to setting.",
        axis_of_trouble,
        Value(),
        (
            Mistake(
                "clipping for a gamed reward",
                AXIS_OF_TROUBLE | {"gamed": "clipping", "runaway": "reward"},
                "Clipping bounds how far one rollout moves the policy, not where many of them lead it.",
            ),
            Mistake(
                "baseline for groups that are alike",
                AXIS_OF_TROUBLE | {"alike": "baseline", "noise": "num_generations"},
                "Where all answers of a group are rewarded alike, every baseline from the group leaves 0. And what is "
                "to take off the 5 that was added to every reward?",
            ),
            Mistake(
                "reward for the length",
                AXIS_OF_TROUBLE | {"length": "reward", "gamed": "loss_mean"},
                "In the figure of the two answers all rewards were right. What differed between their tokens?",
            ),
        ),
    ),
)
