"""Prompts that are tasks, judges that give an answer the number that its source would, and where texts part."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labkit.commands.main import main
from labkit.decoding.strategies import parse_strategy
from labkit.errors import LabError
from labkit.evaluation.judges import oracle_judge, reward_judge
from labkit.evaluation.strategies import (
    HEADS,
    LEGEND,
    EvalPrompt,
    compare_strategies,
    find_held_out_task,
    first_difference_index,
    format_strategies_table,
    score_texts,
)
from labkit.paths import demo_folder
from labkit.runs.decoding import decoding_resources, world_and_prompts
from labkit.runs.folder import Run
from labkit.text.chat import encode_answer_prefix, encode_prompt
from labkit.text.pairs import PreferencePair, collate_pairs, encode_pair
from labkit.world import World
from labkit.world.oracle import gold_score


@pytest.fixture(scope="module")
def run() -> Run:
    return Run.open(demo_folder())


def test_the_reward_model_reads_answers_as_in_training(run):
    tokenizer, reward_model = run.tokenizer(), run.stage("reward").reward_model()
    _, [one] = world_and_prompts(run, "", 1)
    assert one.task is not None
    answers = [one.task.reference, "The dog."]
    pair = PreferencePair(one.task.messages, answers[0], answers[1])
    batch = collate_pairs([encode_pair(tokenizer, pair)], 256, tokenizer.pad_token_id)
    batch = batch.to(reward_model.head.weight.device)
    with torch.no_grad():
        expected = reward_model.scores_at(batch.inputs, batch.mask, batch.last_token_index)
    ids = [encode_answer_prefix(tokenizer, answer) for answer in answers]
    assert reward_judge(reward_model, tokenizer)([one.ids] * 2, ids) == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_oracle_judges_its_own_tasks(run):
    tokenizer = run.tokenizer()
    world, [one] = world_and_prompts(run, "", 1)
    assert world is not None and one.task is not None
    judge = oracle_judge(world, {tuple(one.ids): one.task}, "warm", tokenizer)
    ids = [tokenizer.encode(" " + text) for text in (one.task.reference, "No.")]
    golds = [gold_score(world, one.task, text, world.profiles["warm"]).total for text in (one.task.reference, "No.")]
    assert judge([one.ids] * len(ids), ids) == golds and golds[0] > golds[1]
    with pytest.raises(LabError, match="not one of them"):
        judge([[1, 2]] * len(ids), ids)
    with pytest.raises(LabError, match="no annotator 'nobody'; there are"):
        oracle_judge(world, {}, "nobody", tokenizer)


def test_a_task_is_known_by_its_words(run):
    world, asked = world_and_prompts(run, "", 30)
    assert world is not None
    for one in asked:
        assert one.task is not None
        if len(one.task.messages) > 1:  # a conversation is more than its last words
            continue
        known = find_held_out_task(world, one.text)
        assert known is not None and known.messages == one.task.messages
        assert world_and_prompts(run, one.text)[1][0].ids == one.ids == encode_prompt(run.tokenizer(), known.messages)
    assert find_held_out_task(world, "What is the capital of France?") is None


def test_gold_is_under_the_annotator_that_is_asked_for(run):
    world, [one] = world_and_prompts(run, "", 1)
    assert world is not None and one.task is not None
    text = run.tokenizer().encode(" " + one.task.reference)
    golds = [
        score_texts(run.model("sft"), run.tokenizer(), [one], [[text]], world, name)["gold"].value
        for name in world.profiles
    ]
    said = run.tokenizer().decode(text).strip()
    assert golds == [pytest.approx(gold_score(world, one.task, said, it).total) for it in world.profiles.values()]
    assert len(set(golds)) > 1
    with pytest.raises(LabError, match="no annotator 'nobody'; there are"):
        score_texts(run.model("sft"), run.tokenizer(), [one], [[text]], world, "nobody")


def test_the_oracle_that_picks_the_best_is_the_runs_annotator(run, tmp_path):
    """Without a reward model: the judge of a run whose annotator is another than the world's first."""
    name = list(World.load(run.recipe.tinyworld_size).profiles)[-1]
    annotation = replace(run.recipe.annotation, annotator=name)
    other = Run(tmp_path, replace(run.recipe, annotation=annotation), {}, 1)  # no stage is in this folder
    shutil.copy(run.path / "tokenizer.json", tmp_path)
    world, [one] = world_and_prompts(other, "", 1)
    assert world is not None and one.task is not None
    said = one.task.reference
    judge = decoding_resources(other, world=world, tasks={tuple(one.ids): one.task}).judge
    assert judge is not None
    expected = gold_score(world, one.task, said, world.profiles[name]).total
    assert judge([one.ids], [run.tokenizer().encode(" " + said)]) == [expected]


def test_where_texts_first_differ():
    assert first_difference_index([[5, 6], [5, 7]]) == 1
    assert first_difference_index([[5, 6], [5]]) is None  # the second still writes
    assert first_difference_index([[5, 6], [5]], end_is_difference=True) == 1
    assert first_difference_index([[5], [5]], end_is_difference=True) is None


README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_asks_the_small_model_what_it_can_answer(run, capsys):
    """A question on a story that TinyWorld could tell, and a task as TinyWorld sets it."""
    prompts = [text for _, text in re.findall(r"""--prompt \$?(['"])(.*?)\1""", README.read_text(encoding="utf-8"))]
    story, task = prompts
    told, _, question = story.replace("\\n", "\n").rpartition("\n")
    world, _ = world_and_prompts(run, task)
    assert world is not None and find_held_out_task(world, task) is not None
    check = world.check(told)
    assert check.parsed == check.sentences == 5 and question == "Who has the key now?"
    assert main(["generate", str(run.path), "--chat", "--strategy", "greedy", "--prompt", f"{told}\n{question}"]) == 0
    assert capsys.readouterr().out.startswith("Oscar has the key now.")


def test_the_table_says_what_its_columns_mean(run):
    world, asked = world_and_prompts(run, "", 1)
    found = compare_strategies(
        run.model("sft"),
        run.tokenizer(),
        asked,
        [parse_strategy("greedy")],
        seeds=1,
        max_new_tokens=8,
        world=world,
        annotator="warm",
    )
    lines = format_strategies_table(found).splitlines()
    assert [name for name in found[0].scores if f"{HEADS.get(name, name):17}{LEGEND[name]}" not in lines] == []
    asked = [EvalPrompt("", one.ids, None) for one in asked]
    found = compare_strategies(
        run.model("sft"), run.tokenizer(), asked, [parse_strategy("greedy")], seeds=1, max_new_tokens=8
    )
    assert "gold" not in format_strategies_table(found) and LEGEND["repetition"] in format_strategies_table(found)
