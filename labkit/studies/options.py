"""What each study is asked for; its flags on the command line. Light, so that `labkit study NAME --help` is instant.

A study's name is that of its module: `labkit.studies.NAME` has `study_recipe`, `run` and `text_report`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import arg

from labkit.configs import Count, NonNegative, Positive, Range, Seed, check_fields
from labkit.errors import LabError
from labkit.runs.arguments import Folder, Preset, Switch, default_preset

Methods = Annotated[tuple[str, ...], arg(metavar="METHOD …", help_behavior_hint="")]
Method = Annotated[str, arg(metavar="METHOD")]
Ensembles = Annotated[tuple[Annotated[int, Range(2, 16)], ...], arg(metavar="N …")]
Combination = Literal["mean", "worst", "deviation"]
Prompts = Annotated[int, Range(2, 100_000)]


NAMED_METHODS: dict[str, tuple[str, str]] = {
    "rlvr": ("grpo", "GRPO rewarded by the oracle: 1 for a right answer (verifiable rewards)"),
    "votes": ("grpo", "GRPO rewarded by the annotator's choices themselves, without a reward model"),
    "rejectionsampling-random": ("rejectionsampling", "the control of rejectionsampling: answers chosen at random"),
    "dpo-rlaif": ("dpo", "dpo-bestworst by a judge of written principles: compare it with dpo-bestworst"),
    "dpo-bestworst": (
        "dpo",
        "DPO on the best and the worst of all answers to a prompt, in place of answers two by two",
    ),
    "kto-bestworst": ("kto", "KTO on the best answer (good) and the worst (bad) of all to a prompt"),
}
"""The methods of `labkit.studies.methods` that are a stage with other settings or other labels: the stage, a line."""


@dataclass(frozen=True)
class Study:
    """What all studies are asked for."""

    preset: Preset = dataclasses.field(default_factory=default_preset)
    """Sizes and settings of each seed's run."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """One run per seed."""
    prompts: Prompts = 500
    """Held-out prompts that every policy answers."""
    out: Folder = None
    """The folder of the study; runs/study-NAME when not given."""
    json: Switch = False
    """Print all results as JSON."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise LabError(f"study {self.name} needs at least one seed, and each seed once: --seeds 0 1 2")

    @property
    def folder(self) -> Path:
        """Of the study: a run a seed, or several, and the results."""
        return self.out or Path("runs") / f"study-{self.name}"


def refuse_own_settings(study: str, own: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Raises LabError for a flag of a field that the study sets itself. own: {field of the recipe: what to set
    instead}; of a field that holds several, as model.feed_forward, all are the study's.
    """
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        for field, mend in own.items():
            named = f"--{field.replace('_', '-')}"
            if flag == named or flag.startswith(f"{named}."):
                raise LabError(f"study {study} sets {flag} itself: {mend}.")


@dataclass(frozen=True)
class AlignmentStudy(Study):
    """Compare the methods that learn from preferences, each from the same fine-tuned model of each seed: gain in gold,
    win rate, right answers, KL. A method is called better only outside the spread of seeds.

    What is finished in the study's folder is not made again. Every field of the recipe that the study does not set
    itself can be set too, as --pretrain.train.steps 500 or --ppo.kl-coef 0.1.
    """

    methods: Methods = ()
    """The methods to compare, of those listed below; all of them when not given. A name with a suffix is the same
    method with flags of its own: --methods dpo dpo-strict --dpo-strict.beta 0.5."""

    name = "alignment"


@dataclass(frozen=True)
class OveroptimisationStudy(Study):
    """Over-optimisation: reward and gold score as the KL from the fine-tuned model grows, for best-of-n and for a
    policy gradient, with one reward model and with ensembles.

    What is finished in the study's folder is not made again. Every field of the recipe that the study does not set
    itself can be set too, as --pretrain.train.steps 500 or --reward.train.steps 100.
    """

    annotated_prompts: Count = 100
    """Prompts that the reward models learn from: the annotator compares two answers to each, where they differ."""
    ensembles: Ensembles = (2, 4, 8)
    """Numbers of reward models in an ensemble."""
    combine: tuple[Combination, ...] = ("mean", "worst", "deviation")
    """How an ensemble combines its scores: the mean, the lowest, or the mean less the standard deviation."""
    best_of: tuple[Count, ...] = (1, 2, 4, 8, 16, 32, 64)
    """The n of best-of-n."""
    checkpoints: Count = 5
    """How many times each policy is measured while it trains."""
    steps: Count = 20
    """Optimizer steps from one measurement to the next."""
    kl_coefs: tuple[Positive, ...] = (0.3, 0.1, 0.03)
    """KL coefficients; one more policy is trained with each."""
    learning_rate: Annotated[Positive | None, arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Learning rate of all policies; the preset's for PPO when not given. At that rate a policy without a KL penalty
    soon writes answers unlike all that its reward model has learnt from."""
    head_std: NonNegative = 0.02
    """Standard deviation of the first weights of each reward model's head, by which they differ."""
    center_rewards_coefficient: NonNegative = 0.01
    """Weight of the term that holds the reward models' scores near zero, without which the level of each is
    arbitrary and the lowest score means little."""

    name = "overoptimisation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.best_of) < 2:
            raise LabError("OveroptimisationStudy: best_of needs several n, as 1 4 16 64, to see where gold peaks.")

    @property
    def reward_stages(self) -> tuple[str, ...]:
        """All reward models; an ensemble of m is the first m of them."""
        return ("reward", *(f"reward-{index}" for index in range(2, max(self.ensembles, default=1) + 1)))

    @property
    def judges(self) -> dict[str, tuple[int, Combination]]:
        """How many reward models each judge is, and how they are combined: {"one": (1, "mean"), "worst4": …}."""
        several: dict[str, tuple[int, Combination]] = {
            f"{name}{size}": (size, name) for size in self.ensembles for name in self.combine
        }
        return {"one": (1, "mean"), **several}

    @property
    def chains(self) -> dict[str, list[str]]:
        """The stages of each judge's policy, one after another."""
        return {judge: [f"grpo-{judge}-{number}" for number in range(1, self.checkpoints + 1)] for judge in self.judges}

    @property
    def kl_stages(self) -> list[str]:
        """The policies with a KL penalty, rewarded by one reward model."""
        return [f"grpo-kl-{number}" for number in range(1, len(self.kl_coefs) + 1)]


@dataclass(frozen=True)
class FeedbackStudy(Study):
    """Reward models from pairs, from ranked lists and from ratings: of the same answers to the same prompts, by the
    same annotator, from the same fine-tuned model. Their accuracy is that of the gold order of held-out answers.

    What is finished in the study's folder is not made again. Every field of the recipe that the study does not set
    itself can be set too, as --annotation.prompts 600 or --reward.train.adamw-lr 1e-3.
    """

    prompts: Prompts = 300
    """Held-out prompts whose answers the reward models put in order."""

    name = "feedback"


@dataclass(frozen=True)
class AnnotatorsStudy(Study):
    """Whose values? Two annotators with other tastes each compare answers of the same fine-tuned model, and a policy
    learns from each of them; either annotator then judges both policies.

    What is finished in the study's folder is not made again. Every field of the recipe that the study does not set
    itself can be set too, as --ppo.kl-coef 0.1.
    """

    annotators: tuple[str, str] = ("concise", "thorough")
    """Two of the world's simulated annotators (profiles.yaml in data/world)."""
    method: Method = "ppo"
    """How the policies learn: one of the methods that `labkit study alignment --help` lists."""

    name = "annotators"


@dataclass(frozen=True)
class SizesStudy(Study):
    """What alignment gains at several model sizes, and whether a small aligned model is preferred over a larger one
    that is only fine-tuned.

    What is finished in the study's folder is not made again. Every field of the recipe that the study does not set
    itself can be set too, as --pretrain.train.steps 500 or --ppo.kl-coef 0.1.
    """

    sizes: Annotated[tuple[str, ...], arg(metavar="WIDTHxDEPTH …")] = ("32x2", "64x2", "96x3")
    """Widths and depths of the models, as 64x2; the rest of a model follows from them."""
    method: Method = "ppo"
    """How the policies learn: one of the methods that `labkit study alignment --help` lists."""

    name = "sizes"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shapes) < 2:
            raise LabError("study sizes compares models: give two sizes or more, as --sizes 32x2 64x2")

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """{"64x2": (64, 2)}, the smallest first. Raises LabError for what is no size."""
        found = {size: parse_size(size) for size in self.sizes}
        return dict(sorted(found.items(), key=lambda one: (one[1][0] ** 2 * one[1][1], one[1])))


@dataclass(frozen=True)
class RoundsStudy(Study):
    """Iterated rounds: the annotator compares answers of the policy, a new reward model is fitted, the policy is
    trained further. It is compared with one round of as many steps in all.

    What is finished in the study's folder is not made again. Every field of the recipe that the study does not set
    itself can be set too, as --ppo.kl-coef 0.1.
    """

    rounds: Annotated[int, Range(2, 10)] = 3
    """How many rounds, the first included."""
    method: Method = "ppo"
    """How the policies learn: one of the methods that `labkit study alignment --help` lists."""

    name = "rounds"


@dataclass(frozen=True)
class MultiTurnStudy(Study):
    """Multi-turn GRPO: simulated users ask follow-ups, and are content at the end or not. How content held-out users
    are with the fine-tuned model, with the policy, and with one that was trained on first questions alone.

    What is finished in the study's folder is not made again. Every field of the recipe can be set too, as
    --multiturn.num-questions 3 or --multiturn.train.steps 100.
    """

    prompts: Prompts = 500
    """Held-out users with whom every policy talks."""

    name = "multiturn"


@dataclass(frozen=True)
class DistillationStudy(Study):
    """What a small model gains from a larger one: fine-tuning again, and distillation off-policy, on-policy and of the
    teacher's greedy answers, all from the same fine-tuned student of each seed.

    What is finished in the study's folder is not made again. Every field of the recipe can be set too, as
    --distill.train.steps 500 or --ppo.kl-coef 0.1.
    """

    teacher: Annotated[str, arg(metavar="WIDTHxDEPTH")] = "96x3"
    """Width and depth of the larger model."""
    student: Annotated[str, arg(metavar="WIDTHxDEPTH")] = "32x2"
    """Width and depth of the small model."""
    teachers: Annotated[tuple[str, ...], arg(metavar="STAGE …")] = ("sft", "ppo")
    """The larger model's stages that teach: sft, and methods of `labkit study alignment`."""

    name = "distillation"

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.shapes
        if not self.teachers or len(set(self.teachers)) < len(self.teachers):
            raise LabError("study distillation needs at least one teacher, and each once: --teachers sft ppo")

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of teacher and student. Raises LabError for what is no size."""
        return parse_size(self.teacher), parse_size(self.student)


def parse_size(size: str) -> tuple[int, int]:
    """ "64x2" -> (64, 2), width and depth. Raises LabError for what is no size."""
    width, x, depth = size.partition("x")
    if not (x and width.isdecimal() and depth.isdecimal() and int(width) and int(depth)):
        raise LabError(f"{size!r} is no size: give width and depth, as 64x2.")
    return int(width), int(depth)


STUDIES: dict[str, type[Study]] = {
    study.name: study
    for study in (
        *(AlignmentStudy, OveroptimisationStudy, FeedbackStudy, AnnotatorsStudy, SizesStudy, RoundsStudy),
        *(MultiTurnStudy, DistillationStudy),
    )
}
"""All studies, by their names."""
