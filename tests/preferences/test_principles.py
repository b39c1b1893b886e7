"""A judge that follows written principles: what it asks, what decides, and what it never sees."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from labkit.configs import from_dict, to_dict
from labkit.errors import LabError
from labkit.preferences import principles
from labkit.preferences.annotate import AnnotationConfig, generate_annotated_pairs
from labkit.preferences.principles import (
    MEASURES,
    PrincipleJudge,
    Principles,
    ProfileJudge,
    load_principles,
    read_answer,
)
from labkit.runs import inputs as run_inputs
from labkit.world import World
from labkit.world.oracle import GoldScore
from tests.tiny_alignment import tiny_materials
from tests.tiny_recipe import tiny_recipe

EQUAL = GoldScore(1, 0.75, 1, 1, 1, 0, 1, 0.5, ())


def judge(**settings) -> PrincipleJudge:
    return PrincipleJudge(Principles(**{"noise": 0.0} | settings), random.Random(0))


def judge_with(seed: int) -> PrincipleJudge:
    return PrincipleJudge(Principles(noise=0.0), random.Random(seed))


def test_every_principle_is_a_sentence_in_both_languages_about_a_measure():
    groups = load_principles()
    assert {"helpful", "honest", "harmless", "style"} <= set(groups)
    for principle in (one for group in groups.values() for one in group):
        assert principle.measure in MEASURES and principle.english.startswith("Choose the answer ")
        assert principle.chinese.startswith("选择") and principle.chinese.endswith("。")
    assert {one.measure for group in groups.values() for one in group} == set(MEASURES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "principles.yaml needs groups of principles"),
        (["right"], "principles.yaml needs groups of principles"),
        ({"helpful": None}, "the group helpful needs a list of principles"),
        ({"helpful": []}, "the group helpful needs a list of principles"),
        ({"helpful": ["right"]}, "principle 1 of the group helpful needs measure, en and zh"),
        ({"helpful": [{"measure": "right", "en": None, "zh": 5}]}, "principle 1 of the group helpful needs"),
        (
            {"helpful": [{"measure": ["right"], "en": "Choose.", "zh": "选择。"}]},
            "principle 1 of the group helpful needs",
        ),
        ({True: [{"measure": "luck", "en": "Choose.", "zh": "选择。"}]}, "True asks about luck; the measures are"),
    ],
)
def test_a_file_of_principles_that_holds_something_else_is_refused(monkeypatch, content, message):
    monkeypatch.setattr(principles, "load_yaml", lambda name: content)
    with pytest.raises(LabError, match=message):
        load_principles.__wrapped__()


def test_in_order_the_first_principle_that_decides_decides():
    polite, complete, right = EQUAL._replace(polite=0.9), EQUAL._replace(complete=0.9), EQUAL._replace(right=0.9)
    one = judge(ask="in_order")
    assert one.chooses_first(polite, EQUAL) is True  # right, supported and complete are equal
    assert one.chooses_first(polite, complete._replace(complete=1.0)) is False
    assert one.chooses_first(right, EQUAL) is False  # 0.9 is less right than 1
    assert one.chooses_first(EQUAL, EQUAL._replace(concise=0.1, total=0.0)) is None  # of which helpful says nothing


def test_one_principle_is_drawn_for_each_pair():
    """Of four principles the one about politeness decides, in a quarter of the pairs; the others are ties."""
    found = Counter(draws(4000))
    assert set(found) == {True, None} and abs(found[True] / 4000 - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5


def draws(count: int, **settings) -> list[bool | None]:
    one = judge(**settings)
    return [one.chooses_first(EQUAL._replace(polite=1), EQUAL) for _ in range(count)]


def test_noise_is_the_share_of_choices_that_are_wrong():
    wrong = draws(4000, ask="in_order", noise=0.2).count(False) / 4000
    assert abs(wrong - 0.2) < 4 * (0.2 * 0.8 / 4000) ** 0.5
    assert set(draws(50, ask="in_order", noise=1.0)) == {False}


def test_ties_are_passed_over_or_a_coins():
    read = [EQUAL, EQUAL, EQUAL, EQUAL._replace(polite=1), EQUAL]
    one = judge(ask="in_order")
    assert list(one.choose_two_by_two(read, keep_ties=False)) == [(3, 2)]
    with_ties = list(one.choose_two_by_two(read, keep_ties=True))
    assert sorted(with_ties[0]) == [0, 1] and with_ties[1] == (3, 2)


def test_the_best_with_the_worst_of_all():
    """One that no principle holds worse than another is the best, whichever principle is asked first."""
    wrong, better, best = EQUAL._replace(right=0, polite=0.1), EQUAL._replace(polite=0.5), EQUAL._replace(polite=0.9)
    read = [EQUAL._replace(polite=0.3), wrong, best, wrong, better]
    for ask in ("one", "in_order"):
        assert all(list(judge(ask=ask).choose_best_and_worst(read, keep_ties=False)) == [(2, 1)] for _ in range(9))
    assert list(judge().choose_best_and_worst([EQUAL, EQUAL], keep_ties=False)) == []
    assert len(list(judge().choose_best_and_worst([EQUAL, EQUAL], keep_ties=True))) == 1
    impolite = EQUAL._replace(polite=0.1, right=1)
    polite_but_wrong = EQUAL._replace(polite=0.9, right=0)
    drawn = [next(judge_with(seed).choose_best_and_worst([impolite, polite_but_wrong], False)) for seed in range(99)]
    assert 30 < drawn.count((0, 1)) < 99  # right, and politeness, each decide if asked before the other
    in_order = judge(ask="in_order").choose_best_and_worst([impolite, polite_but_wrong], False)
    assert list(in_order) == [(0, 1)]  # right is asked first


def test_what_it_reads_depends_on_no_annotator():
    world = World.load("tiny")
    task = world.task("train", 0, 0, "where")
    short, long = (read_answer(world, task, text) for text in ("In the park.", "She is in the park."))
    assert short.concise == 1 / 3 and long.concise == 1 / 5


@pytest.fixture(scope="module")
def labelled():
    """Pairs by annotators and judges, of one model."""
    torch.set_num_threads(1)
    stage_inputs = tiny_materials()
    plain = AnnotationConfig(num_generations=2, max_new_tokens=6, precision="fp32", keep_ties=True)

    def pairs(**changes):
        model = stage_inputs.model("sft")
        config = replace(plain, **changes)
        return generate_annotated_pairs(model, stage_inputs.tokenizer, stage_inputs.world, config, "train", 12)

    return pairs


def test_the_same_answers_are_labelled_by_another_judge(labelled):
    profile, principles = labelled(), labelled(judge=Principles(group="style", ask="in_order", noise=0.0))
    for one, other in zip(profile, principles, strict=True):
        assert one.pair.prompt == other.pair.prompt
    concise = [len(one.pair.chosen.split()) <= len(one.pair.rejected.split()) for one in principles]
    assert sum(concise) > len(concise) / 2


def test_labels_do_not_depend_on_the_annotator_and_gold_does(labelled):
    warm, thorough = (labelled(judge=Principles(), annotator=name) for name in ("warm", "thorough"))
    assert [one.pair for one in warm] == [one.pair for one in thorough]
    assert [one.pair for one in warm] == [one.pair for one in labelled(judge=Principles())]


def test_a_recipe_without_principles_is_as_it_was():
    plain = AnnotationConfig()
    assert "judge" not in to_dict(plain, legacy_names=True) and plain.judge == ProfileJudge()
    ours = replace(plain, judge=Principles("honest", "in_order", 0.0))
    assert from_dict(AnnotationConfig, to_dict(ours)) == ours
    assert to_dict(ours, legacy_names=True)["judge"]["group"] == "honest"


def test_only_runs_that_follow_principles_depend_on_their_file(tmp_path, monkeypatch):
    plain = tiny_recipe()
    ours = replace(plain, annotation=replace(plain.annotation, judge=Principles()))
    before, with_principles = run_inputs.input_hashes(plain), run_inputs.input_hashes(ours)
    assert set(before) == {"data/world"} and set(with_principles) == {"data/world", "data/world/principles.yaml"}
    world = tmp_path / "world"
    world.mkdir()
    for file in (run_inputs.data_folder() / "world").glob("*.yaml"):
        (world / file.name).write_bytes(file.read_bytes())
    with (world / "principles.yaml").open("a") as file:
        file.write("# changed\n")
    monkeypatch.setattr(run_inputs, "data_folder", lambda: tmp_path)
    run_inputs.check_world_unchanged(tmp_path, before)
    with pytest.raises(LabError, match=r"data/world/principles\.yaml has changed since"):
        run_inputs.check_world_unchanged(tmp_path, with_principles)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "ratings"}, "Principles choose between two answers, and the format is ratings"),
        ({"format": "rankings"}, "Principles choose between two answers, and the format is rankings"),
        ({"position_bias": 0.5}, "other_annotators, position_bias, laziness and lazy_choice are of people"),
        ({"lazy_choice": "longer"}, "other_annotators, position_bias, laziness and lazy_choice are of people"),
        ({"other_annotators": ("concise",)}, "other_annotators, position_bias, laziness and lazy_choice are of people"),
    ],
)
def test_what_a_judge_of_principles_does_not_do_is_refused(settings, message):
    with pytest.raises(LabError, match=message):
        AnnotationConfig(judge=Principles(), **settings)


def test_where_the_principles_decide_nothing_the_judge_is_named_and_not_the_annotator():
    given = tiny_materials()
    config = AnnotationConfig(judge=Principles("style"), num_generations=2, max_new_tokens=1)
    with pytest.raises(LabError, match="principles of the group style decide between no two .* to 1 prompts, so there"):
        for seed in range(20):
            generate_annotated_pairs(given.model("sft"), given.tokenizer, given.world, config, "train", 1, seed)


def test_a_group_that_is_none_is_refused():
    with pytest.raises(LabError, match="there is no group 'kind'; the groups are helpful, honest, harmless, style"):
        Principles("kind")
    with pytest.raises(LabError, match="Principles: noise must be"):
        Principles(noise=1.5)
