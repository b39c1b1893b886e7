"""Stories, documents and tasks: deterministic, consistent, split by combinations."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LabError
from labkit.world import World, remove_story_from_prompt
from labkit.world.corpus import seeded_rng

WORLDS = {size: World.load(size) for size in ("tiny", "lab", "full")}
sizes = st.sampled_from(sorted(WORLDS))
splits = st.sampled_from(["train", "validation", "test"])


def story_of(size: str, split: str, seed: int):
    return WORLDS[size].story_generator.story(split, seeded_rng("story", split, seed, 0))


def pairs(world: World, story) -> set[str]:
    """The splits of all pairs of words that meet in a story."""
    words = {a for e in story.events for a in e.args if isinstance(a, str)}
    return {s for one, other in combinations(sorted(words), 2) if (s := world.splits.split_of(one, other))}


@settings(max_examples=150, deadline=None)
@given(sizes, splits, st.integers(0, 10**6))
def test_every_sentence_parses_and_every_event_can_happen(size, split, seed):
    story = story_of(size, split, seed)
    check = WORLDS[size].check(story.text)
    assert check.problems == ()
    assert check.sentences == check.parsed == check.possible == len(story.events)
    assert 40 <= len(story.text.split()) <= 180


@settings(max_examples=100, deadline=None)
@given(sizes, splits, st.integers(0, 10**6))
def test_the_same_seed_tells_the_same(size, split, seed):
    world, again = WORLDS[size], World.load(size)
    assert world.document(split, seed, 3) == again.document(split, seed, 3)
    assert world.conversation(split, seed, 3) == again.conversation(split, seed, 3)
    assert (
        world.task(split, seed, 3) == again.task(split, seed, 3) or world.task(split, seed, 3).source_story is not None
    )


def test_another_index_tells_another_story():
    texts = [WORLDS["lab"].document("train", 0, i).passage for i in range(200)]
    assert len(set(texts)) == 200


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(0, 10**6))
def test_held_out_combinations_never_meet_in_training(size, seed):
    world = WORLDS[size]
    assert pairs(world, story_of(size, "train", seed)) == {"train"}
    test = pairs(world, story_of(size, "test", seed))
    assert "test" in test and "validation" not in test
    validation = pairs(world, story_of(size, "validation", seed))
    assert "validation" in validation and "test" not in validation


def test_everybody_has_held_out_partners():
    world = WORLDS["lab"]
    for person in world.lexicon.values["person"]:
        for kind in ("thing", "food", "place", "animal"):
            found = {world.splits.split_of(person, other) for other in world.lexicon.values[kind]}
            assert found == {"train", "validation", "test"}, (person, kind)


@pytest.mark.parametrize("size", WORLDS)
def test_documents_are_whole(size):
    kinds = set()
    for index in range(200):
        document = WORLDS[size].document("train", 5, index)
        kinds.add(document.kind)
        assert document.passage and [m.role for m in document.messages] == ["user", "assistant"] * (
            len(document.messages) // 2
        )
    assert kinds == {"story", "scene", "code", "rule", "facts"}


def test_conversations_end_with_the_assistant():
    kinds = set()
    for index in range(300):
        conversation = WORLDS["lab"].conversation("train", 5, index)
        kinds.add(conversation.kind)
        assert conversation.passage == "" and conversation.messages[-1].role == "assistant"
        assert conversation.messages[0].role == "user"
    assert kinds >= {"reading", "code", "fact", "name_feeling", "write", "retell", "refuse"}


def test_without_its_story_a_task_asks_the_same():
    task = WORLDS["lab"].task("test", 0, 0, "where")
    bare = remove_story_from_prompt(task)
    assert task.story in task.messages[0].content and task.story not in bare.messages[0].content
    assert bare.messages[0].content.endswith("?") and bare.question == task.question


def test_unknown_splits_and_kinds_are_named():
    with pytest.raises(LabError, match="no split 'dev'.*train, validation, test"):
        WORLDS["lab"].document("dev", 0, 0)
    with pytest.raises(LabError, match="no task 'sing'.*where"):
        WORLDS["lab"].task("test", 0, 0, "sing")


def test_a_check_says_what_is_wrong():
    check = WORLDS["lab"].check("One day, Anna was in the park. Anna gave the ball to Ben. Banana banana.")
    assert (check.sentences, check.parsed, check.events, check.possible) == (3, 2, 2, 1)
    assert "not possible: Anna gave the ball to Ben." in check.problems[0]
    assert check.problems[1] == "not a TinyWorld sentence: Banana banana."
