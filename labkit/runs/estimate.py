"""What each stage of a recipe will take of a device, before anything is trained: memory and time.

A stage is not described here: its own code makes batches, with a model of a few numbers in place of the real one, and
its own objective is counted on fake tensors (see `labkit.training.step_cost`). So a stage of any kind, and any
architecture, is estimated as it is. Of a run, its own tokenizer is read, and the shape of each model that lies there.

Where a stage samples from the model in training, all answers are taken to be as long as they may be. Where no
preference pairs are given, the world's right answers take their place. Counted are tensors as the CPU makes them, with
attention written out: a GPU's fused attention keeps no scores, so that its activations are counted too high, the more
the longer rows are; its autocast keeps some more numbers in fp32. What a stage measures afterwards is not counted, nor
what torch.compile saves.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device

from labkit.decoding.generate import sample_by_inverse_cdf
from labkit.errors import LabError
from labkit.evaluation.config import truncate_texts
from labkit.model.feedforward import Gated
from labkit.model.positions import NoPosition
from labkit.model.reward_model import RewardModel
from labkit.model.transformer import ModelConfig, Transformer
from labkit.preferences.annotate import preference_task
from labkit.runs.folder import Run, open_other_run_stage
from labkit.runs.plan import is_other_run_stage
from labkit.runs.prepare import LoadedSources, read_sources, tokenizer_texts
from labkit.runs.recipe import Recipe
from labkit.runs.stage_folder import StageFolder
from labkit.stages import PreferenceSplit, Stage, StageInputs
from labkit.stages.registry import DATA_FIELDS, RolloutSchedule
from labkit.text.pairs import PreferencePair
from labkit.text.rankings import Ranking
from labkit.text.tokenizer import Tokenizer
from labkit.text.unpaired import AnswerSplit, RatedAnswer
from labkit.training.cost import CostCounter, Work, fake_tensors, without_memory
from labkit.training.processes import ParallelConfig, accelerator
from labkit.training.speed import DeviceSpeed
from labkit.training.step_cost import StepCost, copied, count_step, model_bytes, sent_bytes
from labkit.world import World

BATCHES = 8
"""Made of each stage, to time how they are made and to find a wide one."""
TOKENIZER_DOCUMENTS = 1000
"""Of the world, at most, for a tokenizer: its vocabulary hardly grows with more."""
PAIRS = 64
"""Of the world's right answers, in place of preference pairs that are not chosen yet."""
CHARACTERS = 400_000
"""Of a text, from which batches are cut."""
DECIDE_TOKENIZER = ("seed", "tinyworld_size", "tokenizer", "text", "instructions", "other_run_stages")
"""What of a recipe decides what its tokenizer becomes."""


@dataclass(frozen=True)
class Devices:
    """What trains. parallel: how a model is shared. speed: of one device; generation_speed: of one that generates
    tokens one by one, the same when None. link: bytes that it sends each second; None where that is not known. bf16:
    whether its products are in bf16 where the recipe says so. cpu: whether it is a processor, in whose memory a model
    is whole before it is sharded, and after.
    """

    speed: DeviceSpeed
    count: int = 1
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    link: float | None = None
    bf16: bool = False
    generation_speed: DeviceSpeed | None = None
    cpu: bool = True


class StageEstimate(NamedTuple):
    """A stage on one of the devices.

    parameter_count: how many numbers are trained. step: of training. frozen_model_bytes: of the models that are read
    beside. kv_cache_bytes: while answers are sampled. peak_bytes: the most at any moment, of step, sampling, and on a
    CPU the start and end, where the whole weights are there. Seconds: of a step's computation, sampling (its share in a
    step), data and communication, the last None where the link is not known.
    """

    stage: str
    parameter_count: int
    step: StepCost
    frozen_model_bytes: float
    kv_cache_bytes: float
    peak_bytes: float
    steps: int
    step_seconds: float
    sampling_seconds: float
    data_seconds: float
    communication_seconds: float | None

    @property
    def seconds(self) -> float:
        """Of all steps."""
        each = self.step_seconds + self.sampling_seconds + self.data_seconds + (self.communication_seconds or 0.0)
        return self.steps * each

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        step = {name: value for name, value in self.step._asdict().items() if name != "work"}
        own = {name: value for name, value in self._asdict().items() if name != "step"}
        found = {"activation_bytes": self.step.activation_bytes, "peak_bytes": self.peak_bytes, "seconds": self.seconds}
        return own | step | self.step.work._asdict() | found


def estimate_stages(
    recipe: Recipe,
    devices: Devices,
    stages: Sequence[str] | None = None,
    run: Run | None = None,
    batches: int = BATCHES,
) -> list[StageEstimate]:
    """The stages of a recipe in order, or those named, each from so many of its batches. run: that the recipe is of, or
    was changed from. Raises LabError for what the stages refuse, and for what the run reads and is gone.
    """
    make = stage_inputs_maker(recipe, devices.count, run=run)
    found = []
    for name in stages or recipe.stages:
        stage, tiny_model_inputs = make(name, tiny_stand_in_model)
        fake_model_inputs = make(name, model_inside_fake_tensors)[1]
        found.append(estimate_stage(name, stage, tiny_model_inputs, fake_model_inputs, devices, batches))
    return found


MakeModel = Callable[[ModelConfig], Transformer]
MakeInputs = Callable[[str, MakeModel], tuple[Stage, StageInputs]]


def stage_inputs_maker(recipe: Recipe, processes: int = 1, rank: int = 0, run: Run | None = None) -> MakeInputs:
    """Reads what a recipe reads, and gives a function: (a stage's name, what makes its models) -> the stage, and what
    it is given in a run of so many processes.
    """
    sources = read_sources(_locations(recipe, run))
    world = World.load(recipe.tinyworld_size)
    planned = _PlannedRun(recipe, run, world, sources, _tokenizer(recipe, run, world, sources))

    def make(name: str, make_model: MakeModel) -> tuple[Stage, StageInputs]:
        inputs = _stage_inputs(planned, name, make_model)
        return recipe.stages[name], dataclasses.replace(inputs, rank=rank, world_size=processes)

    return make


class _PlannedRun(NamedTuple):
    """A recipe and what it reads; run: in whose folder some of it is made already, if any."""

    recipe: Recipe
    run: Run | None
    world: World
    sources: LoadedSources
    tokenizer: Tokenizer

    def model_config(self, stage: str | None) -> ModelConfig:
        """The shape of a stage's model, as it lies in a folder, of the stage or of what it begins with; None: that of a
        model still to be drawn.
        """
        if stage is None:
            return dataclasses.replace(self.recipe.model, vocabulary=self.tokenizer.vocab_size)
        if is_other_run_stage(stage):
            return _other_run_stage(self.run, stage)[1].model_config()
        made = trained_stage(self.recipe, self.run, stage)
        return self.model_config(self.recipe.predecessor(stage)) if made is None else made.model_config()


def trained_stage(recipe: Recipe, run: Run | None, stage: str) -> StageFolder | None:
    """A stage of the recipe, where the run has trained just that."""
    if run is None or stage not in run.recipe.stages or not run.stage(stage).trained:
        return None
    return run.stage(stage) if run.recipe.fingerprint(stage) == recipe.fingerprint(stage) else None


def _other_run_stage(run: Run | None, stage: str) -> tuple[Run, StageFolder]:
    """Another run and its stage, RUN/STAGE, where it is now."""
    known = run is not None and stage in run.recipe.other_run_stages
    return open_other_run_stage(run.locate_other_run_stage(stage) if run is not None and known else stage)


def _locations(recipe: Recipe, run: Run | None) -> dict[str, str]:
    """Where that which the recipe reads is now, by its fields."""
    named = {field: getattr(recipe, field) for field in DATA_FIELDS if getattr(recipe, field) is not None}
    if run is None:
        return named
    return named | run.locate_inputs([field for field in named if named[field] == getattr(run.recipe, field)])


def _tokenizer(recipe: Recipe, run: Run | None, world: World, sources: LoadedSources) -> Tokenizer:
    """The run's, where the recipe would make the same; that of a run which the recipe goes on from; else one like the
    run's own.
    """
    if run is not None and (run.path / "tokenizer.json").is_file():
        if all(getattr(recipe, name) == getattr(run.recipe, name) for name in DECIDE_TOKENIZER):
            return run.tokenizer()
    if recipe.other_run_stages:
        return _other_run_stage(run, recipe.other_run_stages[0])[0].tokenizer()
    config = recipe.tokenizer
    fewer = dataclasses.replace(config, documents=min(config.documents, TOKENIZER_DOCUMENTS))
    small = dataclasses.replace(recipe, tokenizer=fewer)
    texts = tokenizer_texts(small, world, sources.texts, sources.conversations)
    return Tokenizer.train(texts, config.vocabulary)


def tiny_stand_in_model(config: ModelConfig) -> Transformer:
    """A model of a few numbers that reads and writes the same tokens."""
    return Transformer(
        ModelConfig(config.vocabulary, config.context, 8, 1, 1, feed_forward=Gated(8), position=NoPosition())
    ).eval()


def model_inside_fake_tensors(config: ModelConfig) -> Transformer:
    """A model of this shape, inside `fake_tensors`."""
    return without_memory(lambda: Transformer(config))


def real_model(config: ModelConfig) -> Transformer:
    """A model of this shape, its weights drawn by torch's own generator."""
    return Transformer(config).eval()


def _stage_inputs(planned: _PlannedRun, stage: str, make_model: MakeModel) -> StageInputs:
    """What a stage is given, its models made by `make_model`."""
    recipe, _, world, sources, tokenizer = planned
    texts = sources.texts
    if texts is not None:
        texts = texts._replace(train=truncate_texts(texts.train, CHARACTERS))
    predecessor = recipe.predecessor(stage) or stage
    return _Inputs(
        tokenizer,
        world,
        recipe.seed,
        texts,
        sources.conversations,
        sources.preferences,
        model_config=planned.model_config(stage),
        annotator=recipe.annotation.annotator,
        other_annotators=recipe.annotation.other_annotators,
        annotation_format=recipe.annotation.format,
        model_of=lambda name: make_model(planned.model_config(name)),
        reward_model_of=lambda name: RewardModel(make_model(planned.model_config(name))),
        load_preferences=lambda: _preferences(recipe, world, sources),
        predecessor=predecessor,
        reward_stage=recipe.preceding_reward_stage(stage),
    )


class _Inputs(StageInputs):
    """Inputs whose new models are made as all others are."""

    def new_model(self) -> Transformer:
        return self.predecessor_model()


def _preferences(recipe: Recipe, world: World, sources: LoadedSources) -> PreferenceSplit:
    if sources.preferences is not None:
        return PreferenceSplit.of(sources.preferences)
    tasks = [preference_task(world, "train", recipe.seed, index) for index in range(PAIRS)]
    pairs = [PreferencePair(task.messages, task.reference, task.reference) for task in tasks]
    ranked = recipe.annotation.format == "rankings"
    answers = recipe.annotation.num_generations  # all different, at the most
    rankings = [Ranking(task.messages, (task.reference,) * answers) for task in tasks] if ranked else []
    if recipe.annotation.format == "ratings":
        rated = [RatedAnswer(task.messages, task.reference, index % 5.0) for index, task in enumerate(tasks)]
        return PreferenceSplit([], [], answers=AnswerSplit(rated, rated))
    return PreferenceSplit(pairs, pairs, rankings=rankings)


def estimate_stage(
    stage_name: str,
    stage: Stage,
    tiny_model_inputs: StageInputs,
    fake_model_inputs: StageInputs,
    devices: Devices,
    num_batches: int = BATCHES,
) -> StageEstimate:
    """One stage, from `num_batches` of its batches. tiny_model_inputs: its inputs with models of `tiny_stand_in_model`,
    which make its batches; fake_model_inputs: the same with models of `model_inside_fake_tensors`, which are counted.
    """
    batches, seconds_per_batch = make_timed_batches(stage, tiny_model_inputs, num_batches)
    _check_batch(stage_name, batches[0], stage.rollout_schedule() is not None)
    sizes = [batch.inputs.numel() for batch in batches]
    widest = batches[sizes.index(max(sizes))]
    width = statistics.mean(sizes) / max(sizes)
    mask_true_share = widest.mask.float().mean().item()
    parallel, processes, speed = devices.parallel, devices.count, devices.speed
    bf16, train, rollouts = devices.bf16 and stage.train.precision == "bf16", stage.train, stage.rollout_schedule()
    sharded = processes > 1 and parallel.strategy == "fsdp"
    with fake_tensors():
        model, frozen = stage.initial_model(fake_model_inputs), stage.frozen_rollout_models(fake_model_inputs)
        options: dict[str, Any] = {"bf16": bf16, "mask_true_share": mask_true_share}
        step = count_step(model, widest, stage.objective, train, parallel=parallel, processes=processes, **options)
        beside = sum(model_bytes(one, processes if sharded else 1) for one in frozen.values())
        whole = model_bytes(model) + sum(map(model_bytes, frozen.values()))
        ends = whole + step.parameter_bytes if sharded and devices.cpu else 0
        sampling, held = SamplingCost(), step.parameter_bytes + step.optimizer_state_bytes + beside
        if rollouts is not None:
            policy: Any = stage.result_model(model)
            gathered = model_bytes(policy) if sharded else 0
            scorers = [*([model] if rollouts.read_by_policy else []), *frozen.values()]
            writer: Any = frozen[rollouts.writer] if rollouts.writer else policy
            sampling = count_sampling(writer, scorers, widest, rollouts, held + gathered, **options)
            sampling = sampling.with_gathered_weights(gathered + whole, processes) if sharded else sampling
    batches_a_step = train.gradient_accumulation_steps
    rollouts_a_step = batches_a_step / rollouts.steps_per_rollout if rollouts else 0.0
    sent = step.sent_bytes + sampling.sent_bytes * rollouts_a_step
    return StageEstimate(
        stage_name,
        sum(p.numel() for p in model.parameters()),
        step,
        beside,
        sampling.kv_cache_bytes,
        max(step.peak_bytes + beside, sampling.peak_bytes, ends),
        train.steps,
        speed.seconds(step.work) * width,
        sampling.seconds(speed, devices.generation_speed or speed, width) * rollouts_a_step,
        0.0 if rollouts else seconds_per_batch * batches_a_step,
        sent / devices.link if devices.link else None if sent else 0.0,
    )


class TimedBatches(NamedTuple):
    """Batches of a stage, and the median seconds that one took to make."""

    batches: list[Any]
    seconds_per_batch: float


def make_timed_batches(stage: Stage, tiny_model_inputs: StageInputs, num_batches: int) -> TimedBatches:
    """Batches of a stage whose models are of `tiny_stand_in_model`, each of another rollout where the model samples."""
    model = stage.initial_model(tiny_model_inputs).to(accelerator().device)
    source, rollouts = stage.source(tiny_model_inputs, model), stage.rollout_schedule()
    apart = rollouts.steps_per_rollout * stage.train.gradient_accumulation_steps if rollouts else 1
    batches, taken = [], []
    for index in range(num_batches):
        start = time.perf_counter()
        batches.append(send_to_device(source.next_batch(model, index * apart), "cpu"))
        taken.append(time.perf_counter() - start)
    return TimedBatches(batches, statistics.median(taken))


def _check_batch(stage: str, batch: Any, samples: bool) -> None:
    """Raises LabError for a batch that does not tell its size; samples: whether its answers are counted too."""
    needed = ("inputs", "labels", "mask") if samples else ("inputs", "mask")
    missing = [one for one in needed if not isinstance(getattr(batch, one, None), torch.Tensor)]
    if missing:
        raise LabError(
            f"labkit plan cannot estimate {stage}: its batches ({type(batch).__name__}) have no tensors "
            f"{' and '.join(missing)} [B, T], as labkit.text.batch.Batch has them. Give them these, or leave the stage "
            f"out (--plan)."
        )


class SamplingCost(NamedTuple):
    """What a rollout takes: bytes of keys and values, the most bytes at any moment, what is sent; and the work of
    generating tokens one by one, of reading whole rows, and of copying what is gathered.
    """

    kv_cache_bytes: float = 0.0
    peak_bytes: float = 0.0
    sent_bytes: float = 0.0
    generating: Work = Work()
    reading: Work = Work()
    copying: Work = Work()

    def with_gathered_weights(self, weight_bytes: float, processes: int) -> SamplingCost:
        """The same where the processes gather so many bytes of sharded weights first."""
        return self._replace(copying=copied(weight_bytes), sent_bytes=sent_bytes(weight_bytes, processes))

    def seconds(self, speed: DeviceSpeed, generation_speed: DeviceSpeed, width: float) -> float:
        """width: of the rows that are read, as a share of what was counted."""
        whole_rows = speed.seconds(self.reading) * width + speed.seconds(self.copying)
        return generation_speed.seconds(self.generating) + whole_rows


def count_sampling(
    writer: Transformer,
    scorers: list[Any],
    batch: Any,
    rollouts: RolloutSchedule,
    resident_bytes: float,
    *,
    bf16: bool,
    mask_true_share: float,
) -> SamplingCost:
    """Count the sampling of a batch's answers by `writer`, token by token, for the share of the rollouts that are
    sampled, and then one forward pass over them of each of the `scorers`: the model in training and those that are
    frozen. resident_bytes: of what is in memory before.

    Each token reads the keys and values of all before it, so the one counted for all stands in the middle of an answer.
    """
    counter, kv_cache_bytes, generating = CostCounter(mask_true_share), 0.0, Work()
    for one in scorers:
        for tensor in (*one.parameters(), *one.buffers()):
            counter.track_tensor(tensor, 0)
    counter.change_live_bytes(resident_bytes)
    share = rollouts.sampled_share
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        if share:
            kv_cache_bytes, generating = _count_generation(counter, writer, batch, rollouts.max_new_tokens)
            counter.work, generating = Work().plus(counter.work, share), Work().plus(generating, share)
        with counter:
            for one in scorers:
                _read(one, batch)
    return SamplingCost(kv_cache_bytes, counter.peak_bytes, generating=generating, reading=counter.work)


def _count_generation(counter: CostCounter, writer: Transformer, batch: Any, max_new_tokens: int) -> tuple[float, Work]:
    """Bytes of keys and values, and the work of generating; that of reading the prompts is left in `counter`."""
    before_it = counter.live_bytes
    rows, width = batch.inputs.shape
    new = min(max_new_tokens, width - 1)
    with counter:
        state = writer.new_state(rows, width)
        kv_cache_bytes = counter.live_bytes - before_it
        prompts = torch.zeros(rows, width - new, dtype=torch.int64)
        writer.hidden_states(prompts, None, torch.ones_like(prompts, dtype=torch.bool), state)
    if before := (new - 1) // 2:
        writer.hidden_states(torch.zeros(rows, before, dtype=torch.int64), None, None, state)
    reading, counter.work, counter.moves_operands = counter.work, Work(), True
    with counter:
        x = writer.hidden_states(prompts[:, :1], None, None, state)
        sample_by_inverse_cdf(writer.logits(x).squeeze(1).float(), torch.zeros(rows))
        generating = Work().plus(counter.work, new)
        del state, x
        counter.work, counter.moves_operands = reading, False
    return kv_cache_bytes, generating


def _read(model: Any, batch: Any) -> None:
    """A forward pass that gives each token of an answer a number."""
    if isinstance(model, Transformer):
        model.label_logprobs(model.hidden_states(batch.inputs), batch.labels, batch.mask)
    else:
        model(batch.inputs, batch.mask)
