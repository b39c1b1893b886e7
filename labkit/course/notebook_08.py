"""The exercises of notebook 08, DPO."""

from __future__ import annotations

import math

from labkit.course.checkers import Choice, Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "DPO"


def implicit_rewards(policy: list[float], reference: list[float], beta: float) -> list[float]:
    """beta log(policy / reference), less that of the first answer: the constant is not known."""
    rewards = [beta * math.log(own / other) for own, other in zip(policy, reference, strict=True)]
    return [reward - rewards[0] for reward in rewards]


def loss_of_a_falling_pair() -> float:
    """The implicit rewards are 0.5 * -1 and 0.5 * -3: the margin is 1, the loss -log sigmoid(1)."""
    return math.log(1 + math.exp(-1.0))


def dpo_gradient(
    chosen: float, rejected: float, chosen_0: float, rejected_0: float, beta: float
) -> tuple[float, float]:
    """-beta sigmoid(-margin) to log pi(chosen), and the same with a plus to log pi(rejected)."""
    margin = beta * ((chosen - chosen_0) - (rejected - rejected_0))
    force = beta / (1 + math.exp(margin))
    return -force, force


def wrong_gradient(scale: float | None = None, sign_of_margin: float = 1.0) -> object:
    """The gradient with another scale than beta, or with the margin's sign changed."""

    def gradient(
        chosen: float, rejected: float, chosen_0: float, rejected_0: float, beta: float
    ) -> tuple[float, float]:
        margin = beta * ((chosen - chosen_0) - (rejected - rejected_0))
        force = (beta if scale is None else scale) / (1 + math.exp(sign_of_margin * margin))
        return -force, force

    return gradient


def without_reference(
    chosen: float, rejected: float, chosen_0: float, rejected_0: float, beta: float
) -> tuple[float, float]:
    return dpo_gradient(chosen, rejected, 0.0, 0.0, beta)


def nats_apart(beta: float) -> float:
    """The choice has probability sigmoid(margin) = 0.9, and the margin is beta times the nats."""
    return math.log(0.9 / 0.1) / beta


def what_overfitting_shows() -> str:
    """Accuracy and loss on the trained pairs are at their best while the answers get worse.

    On real text, without gold: people, or a model that has learnt their choices, compare its answers to held-out
    prompts with those of the model before. The KL to the reference says how far the policy has gone.
    """
    return "gold of new answers"


EXERCISES = (
    Exercise(
        "08.1",
        "Write implicit_rewards(policy, reference, beta): the implicit rewards of a policy for all answers to a "
        "prompt, moved so that the first is 0.",
        implicit_rewards,
        Function(
            lambda: [
                ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5], 1.0),
                ([0.9, 0.1], [0.5, 0.5], 0.2),
                ([0.3, 0.7], [0.3, 0.7], 2.0),
            ]
        ),
        (
            Mistake(
                "not moved",
                lambda policy, reference, beta: [
                    beta * math.log(own / other) for own, other in zip(policy, reference, strict=True)
                ],
                "The first answer's reward is not 0. What can be taken from all rewards without changing the policy?",
            ),
            Mistake(
                "beta divides",
                lambda policy, reference, beta: implicit_rewards(policy, reference, 1 / beta),
                "The reward is divided by β inside the exponential. What does β do when you solve for the reward?",
            ),
            Mistake(
                "reference forgotten",
                lambda policy, reference, beta: implicit_rewards(policy, [1.0] * len(policy), beta),
                "A policy that equals its reference has learnt nothing: its implicit rewards should be equal.",
            ),
            Mistake(
                "ratio upside down",
                lambda policy, reference, beta: implicit_rewards(reference, policy, beta),
                "The sign is wrong: an answer that became likelier should have a larger reward, not a smaller one.",
            ),
        ),
    ),
    Exercise(
        "08.2",
        "β = 0.5; log π₀ is −5 of the chosen answer and −6 of the rejected one, log π is −6 and −9. What is the loss, "
        "in nats (to three decimals)?",
        loss_of_a_falling_pair,
        Value(),
        (
            Mistake("beta forgotten", math.log(1 + math.exp(-2)), "The margin is 2 nats only before β comes to it."),
            Mistake("reference forgotten", math.log(1 + math.exp(-1.5)), "This compares log π of both answers alone."),
            Mistake(
                "sign of the margin", math.log(1 + math.exp(1)), "Which answer has fallen less? It has the margin."
            ),
            Mistake("probability", 1 / (1 + math.exp(-1)), "This is σ(margin), the probability of the choice."),
            Mistake("no change", math.log(2), "This is the loss where policy and reference agree."),
        ),
    ),
    Exercise(
        "08.3",
        "Write dpo_gradient(chosen, rejected, chosen_0, rejected_0, beta), of log-probabilities under policy and "
        "reference: the gradient of the loss with respect to `chosen` and `rejected`.",
        dpo_gradient,
        Function(
            lambda: [
                (-6.0, -9.0, -5.0, -6.0, 0.5),
                (-5.0, -6.0, -5.0, -6.0, 0.1),
                (-9.0, -2.0, -5.0, -6.0, 0.2),
            ]
        ),
        (
            Mistake(
                "beta forgotten",
                wrong_gradient(scale=1.0),
                "This is the gradient with respect to the implicit rewards. How do they depend on the "
                "log-probabilities?",
            ),
            Mistake(
                "other side of the sigmoid",
                wrong_gradient(sign_of_margin=-1.0),
                "So a pair would push harder the better it is ranked. It should push less.",
            ),
            Mistake("reference forgotten", without_reference, "The margin is not that of log π alone."),
            Mistake(
                "signs exchanged",
                lambda *given: dpo_gradient(*given)[::-1],
                "The signs are exchanged: a step goes against the gradient, so the chosen answer would lose.",
            ),
        ),
    ),
    Exercise(
        "08.4",
        "How many nats must log π(chosen) have moved further than log π(rejected), so that the policy gives the choice "
        "a probability of 0.9?",
        nats_apart,
        Value(given={"beta": 0.2}),
        (
            Mistake("margin", lambda beta: math.log(9), "That is the margin. How many nats is it with this β?"),
            Mistake(
                "beta multiplied", lambda beta: beta * math.log(9), "The margin is β times the nats: solve for them."
            ),
            Mistake("log of 0.9", lambda beta: -math.log(0.9) / beta, "That is the loss of the choice, over β."),
        ),
    ),
    Exercise(
        "08.5",
        "On few pairs, for many steps: which number shows that the policy has become worse?",
        what_overfitting_shows,
        Choice(("training loss", "accuracy on the training pairs", "gold of new answers", "none")),
        (
            Mistake("loss", "training loss", "Look at it in the figure: is it large or small at the end?"),
            Mistake("accuracy", "accuracy on the training pairs", "It is as good as it can be at the end."),
            Mistake("none", "none", "One of them is measured on answers that the policy writes itself."),
        ),
    ),
)
