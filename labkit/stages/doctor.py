"""The doctor: what goes wrong in silence is said while a stage trains, with its cause and the setting to change.

    for finding in diagnose("grpo", run.recipe.stages["grpo"], run.stage("grpo").step_records):
        print(finding.step, finding.message)

A check is a pure function over a stage's step records: it gives a message, or None. A stage names its checks
(`Stage.checks`), and a Doctor asks each of them after every step, until it has once found something. What it has found
follows from the records alone, so that it can be said while training and be read again from metrics.jsonl.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from labkit.stages.credit import GroupMean, LeaveOneOut, NoKL, ValueModel

Record = Mapping[str, Any]
"""A step, as metrics.jsonl has it: `StepRecord.to_dict`."""

WINDOW = 10
"""Rollouts, or steps of a stage without any, that a check looks at. The mean of so many is steady, and the shortest
preset has twice as many: what is said then can still be heeded.
"""
CONSTANT_ROLLOUTS = 5
"""So many rollouts without two different rewards are no chance."""
CONSTANT_STD = 1e-3
"""As a share of the mean reward; what rounding can make of a deviation of 0 in fp32 is a third of that."""
ALIKE_SHARE = 0.6
"""Of the groups: above it more than half of the answers are generated for nothing. GSPO and DAPO at the smoke preset
come to 0.47 while their reward rises.
"""
LENGTH_CORRELATION = 0.8
"""Spearman's. Its square is the share of the ranks' variance that length explains: 0.64, nearly two thirds."""
LENGTH_DRIFT = 1.25
"""By what factor answers have become longer, or shorter, since the first rollouts. It says nothing by itself: at the
smoke preset answers become twice as long, at a correlation of up to 0.6.
"""
MOST_KL = 20.0
"""Nats per answer. The best of n answers is log n - (n - 1) / n away from what is sampled (Stiennon et al. 2020,
https://arxiv.org/abs/2009.01325, G.3): 20 nats are the best of e^21, a billion. At the smoke preset PPO and
GRPO come to 8, and CISPO, which nothing holds, to 16.
"""
KL_GROWTH = 1.1
"""The later half of a window over its earlier half; a KL that is high and steady is held by something."""
ZERO_LOSS = 1e-3
"""As the terminal shows it: 0.000."""
LEAST_EXPLAINED = 1e-3
"""Of the returns' variance; a value model that says one number has 0, but for rounding."""
CHOSEN_FALL = 6.0
"""Nats per answer: e^6 is 400 times less likely. DPO at the presets loses up to 4, and gains in gold."""
CHOSEN_FALL_SHARE = 0.5
"""Of the log-probability before: what a fall is measured by where answers are long."""
ALL_RIGHT = 0.99
"""Accuracy on the batches of a window from which nothing is left to learn of them."""
HELD_OUT_RISE = 1.05
"""The loss on held-out data over its lowest value so far. Less than that is noise of a few hundred pairs."""
ONE_KIND_SHARE = 0.25
"""Of a window's batches. By chance it happens to one of eight batches of 4 answers, and one of 128 of 8."""


class Finding(NamedTuple):
    """step: after which it was found. check: the name of the function. is_warning: False where all is well, and only
    looks as if it were not.
    """

    step: int
    check: str
    message: str
    is_warning: bool = True


class Case(NamedTuple):
    """A stage as its checks see it. name: in the plan. first, recent: records of the first and the last WINDOW rollouts
    (the first step on each), or of steps; seen: how many in all. held_out: the losses so far, from before the
    first step on.
    """

    name: str
    stage: Any
    first: Sequence[Record] = ()
    recent: Sequence[Record] = ()
    seen: int = 0
    held_out: Sequence[float] = ()

    def before_and_now(self, metric: str) -> tuple[float, float]:
        """Its mean over the first records and over the last."""
        return mean(self.first, metric), mean(self.recent, metric)

    def flags(self, *settings: str) -> str:
        """flags("kl_coef", "kl.coef", "temperature") -> "--grpo.kl.coef, --grpo.temperature": those that it has."""
        found = [f"--{self.name}.{setting.replace('_', '-')}" for setting in settings if _has(self.stage, setting)]
        return ", ".join(found)

    @property
    def learning_rate(self) -> str:
        return self.flags("train.adamw_lr" if self.stage.train.optimizer == "adamw" else "train.muon_lr")

    @property
    def kl_weight(self) -> str:
        """What holds the policy to the reference model."""
        if isinstance(self.stage.kl, NoKL):
            return f"--{self.name}.kl KLInReward"
        return self.flags("kl_coef", "kl.coef", "target_kl", "kl.target")

    @property
    def judge(self) -> str:
        """What sets the reward."""
        return self.flags("reward", "num_questions") or "the reward model"


def _has(config: Any, setting: str) -> bool:
    """Whether a dataclass has a field, or one inside a field: "train.steps"."""
    name, _, inside = setting.partition(".")
    if name not in {field.name for field in dataclasses.fields(config)}:
        return False
    return not inside or _has(getattr(config, name), inside)


def mean(records: Sequence[Record], metric: str) -> float:
    return sum(record[metric] for record in records) / len(records)


Check = Callable[[Case], str | None]


def check(*metrics: str, at_least: int = WINDOW) -> Callable[[Check], Check]:
    """A check of these metrics, which has nothing to say before `at_least` records are there, and of records without
    them: those of an older labkit.
    """

    def limited(function: Check) -> Check:
        @functools.wraps(function)
        def asked(case: Case) -> str | None:
            ready = case.seen >= at_least and set(metrics) <= case.first[0].keys() & case.recent[-1].keys()
            return function(case) if ready else None

        return asked

    return limited


@check("reward", "reward_std", "frac_reward_zero_std", at_least=CONSTANT_ROLLOUTS)
def constant_reward(case: Case) -> str | None:
    """Every answer of the last rollouts got the same reward."""
    rollouts = case.recent[-CONSTANT_ROLLOUTS:]
    if not all(map(_is_constant, rollouts)):
        return None
    return (
        f"All answers of the last {CONSTANT_ROLLOUTS} rollouts got the same reward, {rollouts[-1]['reward']:.3g}: "
        f"nothing tells a good answer from a bad one. Change what judges them ({case.judge}) so that it tells answers "
        f"of this policy apart, or raise {case.flags('temperature')} where they are all alike."
    )


def _is_constant(rollout: Record) -> bool:
    return rollout["frac_reward_zero_std"] == 1 and rollout["reward_std"] <= CONSTANT_STD * abs(rollout["reward"])


@check("reward", "reward_std", "frac_reward_zero_std")
def group_without_variance(case: Case) -> str | None:
    """Most prompts' answers are rewarded alike, where they are compared with each other alone."""
    share = mean(case.recent, "frac_reward_zero_std")
    if share <= ALIKE_SHARE or not case.stage.baseline.needs_group or all(map(_is_constant, case.recent)):
        return None
    return (
        f"{100 * share:.0f} % of the prompts of the last {WINDOW} rollouts had answers that were all rewarded alike. A "
        f"group without variance has no advantage and teaches nothing. Raise {case.flags('temperature')} or "
        f"{case.flags('num_generations')}, or choose a reward with finer steps ({case.judge})."
    )


@check("reward_length_correlation", "length", at_least=2 * WINDOW)
def reward_follows_length(case: Case) -> str | None:
    """Longer answers are rewarded more and answers get longer, or both the other way round."""
    correlation, (before, now) = mean(case.recent, "reward_length_correlation"), case.before_and_now("length")
    drift = now / before if correlation > 0 else before / now
    if abs(correlation) < LENGTH_CORRELATION or drift < LENGTH_DRIFT:
        return None
    return (
        f"The reward follows the length of the answers (rank correlation {correlation:.2f} over the last {WINDOW} "
        f"rollouts), and they went from {before:.1f} to {now:.1f} tokens: the policy may learn length and nothing "
        f"else. Change what judges them ({case.judge}), hold the policy closer ({case.kl_weight}), or bound its "
        f"answers ({case.flags('max_new_tokens')})."
    )


@check("kl")
def kl_runs_away(case: Case) -> str | None:
    """The policy is far from the reference model, and goes on."""
    half = WINDOW // 2
    before, now = mean(case.recent[:half], "kl"), mean(case.recent[half:], "kl")
    if now <= MOST_KL or now < KL_GROWTH * before:
        return None
    return (
        f"The KL from the reference model is {now:.0f} nats per answer and grows: the answers are no longer of the "
        f"kind that the reward was made for, and a high one says little. Hold the policy closer ({case.kl_weight}), or "
        f"lower {case.learning_rate}."
    )


@check("loss", "gradient_norm", at_least=1)
def zero_loss(case: Case) -> str | None:
    """The first step's loss is 0 where advantages add up to 0, and nothing is wrong."""
    centred = case.stage.whiten or isinstance(case.stage.baseline, GroupMean | LeaveOneOut)
    first = case.first[0]
    if not centred or first["step"] != 1 or abs(first["loss"]) > ZERO_LOSS or first["gradient_norm"] < ZERO_LOSS:
        return None
    return (
        f"The loss of the first step is 0, which is no error: the advantages of its answers add up to 0, and the "
        f"policy is still the one that wrote them (every ratio is 1). The gradient is not 0 (its norm is "
        f"{first['gradient_norm']:.2g}). Watch the reward, not the loss."
    )


@check("explained_variance", at_least=2 * WINDOW)
def value_model_explains_nothing(case: Case) -> str | None:
    """The critic predicts the returns no better than their mean does."""
    explained = mean(case.recent, "explained_variance")
    if explained >= LEAST_EXPLAINED or not isinstance(case.stage.baseline, ValueModel):
        return None
    return (
        f"After {case.seen} rollouts the value model explains nothing of the returns: explained variance "
        f"{explained:.2f}, where their mean alone has 0. Its advantages are noise. Raise "
        f"{case.flags('vf_coef', 'baseline.vf_coef')} or {case.flags('train.steps')}, or take more steps on each "
        f"rollout ({case.flags('epochs')})."
    )


POLICY_GRADIENT_CHECKS: tuple[Check, ...] = (
    zero_loss,
    constant_reward,
    group_without_variance,
    reward_follows_length,
    kl_runs_away,
    value_model_explains_nothing,
)


@check("chosen_logprob", "rejected_logprob", at_least=2 * WINDOW)
def chosen_falls(case: Case) -> str | None:
    """Both answers become less likely, the chosen one, too: the probability goes where nobody looked (Pal et al. 2024,
    https://arxiv.org/abs/2402.13228; Razin et al. 2024, https://arxiv.org/abs/2410.08847).
    """
    (before, now), (rejected_before, rejected_now) = map(case.before_and_now, ("chosen_logprob", "rejected_logprob"))
    fall = before - now
    if fall < max(CHOSEN_FALL, CHOSEN_FALL_SHARE * abs(before)) or rejected_now >= rejected_before:
        return None
    return (
        f"The chosen answers become less likely together with the rejected ones: {fall:.1f} and "
        f"{rejected_before - rejected_now:.1f} nats per answer below the first steps. The probability goes to answers "
        f"that nobody compared. Lower {case.learning_rate} or {case.flags('train.steps')}, or change what holds the "
        f"policy back ({case.flags('beta', 'rpo_alpha')})."
    )


@check("accuracy")
def overfits_pairs(case: Case) -> str | None:
    """All of the batches is right, and the held-out loss rises."""
    if len(case.held_out) < 2:
        return None
    accuracy, lowest, now = mean(case.recent, "accuracy"), min(case.held_out[:-1]), case.held_out[-1]
    if accuracy < ALL_RIGHT or now <= HELD_OUT_RISE * lowest:
        return None
    return (
        f"The accuracy on the last {WINDOW} batches is {accuracy:.2f}, but the loss on held-out pairs rose from "
        f"{lowest:.3f} to {now:.3f}: the model learns its pairs by heart. Give it more pairs, lower "
        f"{case.flags('train.steps')} or {case.learning_rate}, or stop where the loss is lowest "
        f"({case.flags('train.evaluate_every')} shows it)."
    )


@check("chosen_logprob", "rejected_logprob")
def one_kind_of_label(case: Case) -> str | None:
    """Batches in which all answers are good, or all are bad."""
    alone = sum(record["chosen_logprob"] == 0 or record["rejected_logprob"] == 0 for record in case.recent)
    if alone <= ONE_KIND_SHARE * WINDOW:
        return None
    return (
        f"In {alone} of the last {WINDOW} batches all answers had the same label: such a step makes every answer "
        f"likelier, or every one less likely. Raise "
        f"{case.flags('train.batch_size', 'train.gradient_accumulation_steps')}, or give good and bad answers in equal "
        f"numbers."
    )


PREFERENCE_CHECKS: tuple[Check, ...] = (chosen_falls, overfits_pairs)
INFORMATION = ("zero_loss",)
"""The checks whose findings are no warnings."""


class Doctor:
    """Looks at a stage's records as they come, and says each thing once.

    name: the stage's in the plan. untrained_loss: on held-out data, before the first step. earlier: the records of a
    run that is resumed; what they show counts as said.
    """

    def __init__(self, name: str, stage: Any, untrained_loss: float | None = None, earlier: Iterable[Record] = ()):
        schedule = stage.rollout_schedule()
        self.steps_per_record = schedule.steps_per_rollout if schedule else 1
        untrained = () if untrained_loss is None else (untrained_loss,)
        self.case, self.earlier, self.findings = Case(name, stage, held_out=untrained), list(earlier), list[Finding]()
        self.first, self.recent, self.step = list[Record](), deque[Record](maxlen=WINDOW), 0

    def __call__(self, record: Record) -> list[Finding]:
        """What this step shows that no earlier one did."""
        self._see_earlier(record["step"])
        return self._see(record)

    def finish(self, metrics: Mapping[str, float]) -> list[Finding]:
        """What the stage's evaluation shows beside."""
        self._see_earlier()
        self._note_held_out(metrics)
        return self._ask()

    def _see_earlier(self, step: float = math.inf) -> None:
        """The records of the steps before this one; a run that was stopped makes those after its checkpoint again."""
        before, self.earlier = [one for one in self.earlier if one["step"] < step], []
        for one in before:
            self._see(one)

    def _see(self, record: Record) -> list[Finding]:
        self.step = record["step"]
        if (self.step - 1) % self.steps_per_record == 0:
            self.first += [record] if len(self.first) < WINDOW else []
            self.recent.append(record)
            self.case = self.case._replace(first=self.first, recent=tuple(self.recent), seen=self.case.seen + 1)
        self._note_held_out(record)
        return self._ask()

    def _note_held_out(self, found: Record) -> None:
        if "validation_loss" in found:
            self.case = self.case._replace(held_out=(*self.case.held_out, found["validation_loss"]))

    def _ask(self) -> list[Finding]:
        known = {finding.check for finding in self.findings}
        asked = [check for check in self.case.stage.checks if check.__name__ not in known]
        told = {check.__name__: check(self.case) for check in asked}
        new = [Finding(self.step, name, said, name not in INFORMATION) for name, said in told.items() if said]
        self.findings += new
        return new


def diagnose(
    name: str, stage: Any, records: Iterable[Record], metrics: Mapping[str, float] | None = None
) -> list[Finding]:
    """All that is to be said of a stage, from its records, and its metrics where it is finished."""
    doctor = Doctor(name, stage, (metrics or {}).get("untrained_loss"))
    for record in records:
        doctor(record)
    doctor.finish(metrics or {})
    return doctor.findings
