"""Evaluation, with models whose answers are known: one that recites the truth, one that knows nothing."""

import dataclasses
import random

import pytest
import torch

from labkit.evaluation import answers, stories
from labkit.evaluation.answers import answer_metrics, held_out_tasks, majority_answer_accuracy, task_prompt
from labkit.evaluation.config import EvaluationConfig, TextData, WorldData, truncate_texts
from labkit.evaluation.language_models import evaluate_base, evaluate_chat
from labkit.evaluation.samples import sample_answers
from labkit.evaluation.stories import generate_stories, is_valid_without_events, novel_story_share, story_metrics
from labkit.model.transformer import ModelConfig, Transformer
from labkit.text.chat import texts_with_leading_space
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document, Event, Message, World

torch.set_num_threads(1)
WORLD = World.load("tiny")
TRAINED = [WORLD.document("train", 0, index) for index in range(200)]
TOKENIZER = Tokenizer.train([piece for document in TRAINED for piece in texts_with_leading_space(document)])
DATA = WorldData(WORLD, 192, seed=0, num_trained_documents=200)
CONFIG = EvaluationConfig(
    documents=8,
    stories=20,
    tasks_per_kind=4,
    majority_baseline_tasks=60,
    story_max_new_tokens=40,
    answer_max_new_tokens=8,
)
STORIES = [document.passage for document in TRAINED if document.kind == "story"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Transformer(ModelConfig(TOKENIZER.vocab_size, context=384, width=32, depth=1, heads=1, key_value_heads=1))


@pytest.fixture
def recite(monkeypatch):
    """Let generation return the given texts, one a prompt, in turn."""

    def set_texts(texts):
        left = [TOKENIZER.encode(" " + text) for text in texts]
        monkeypatch.setattr(stories, "generate", lambda model, prompts, **rest: [left.pop(0) for _ in prompts])

    return set_texts


def recite_answers(monkeypatch, answer):
    monkeypatch.setattr(
        answers, "answer_tasks_greedily", lambda model, tokenizer, tasks, *rest: list(map(answer, tasks))
    )


def test_a_model_that_knows_the_truth_has_full_marks(monkeypatch, model):
    recite_answers(monkeypatch, lambda task: task.reference)
    metrics = answer_metrics(model, TOKENIZER, DATA, CONFIG, story_in_user_turn=True)
    for name, value in metrics.items():
        if name.startswith("accuracy") and "error" not in name:
            assert value == 1, name
    assert metrics["tasks"] == 4 * len(WORLD.task_kinds)
    assert metrics["accuracy_standard_error"] == metrics["unsupported"] == 0
    assert {name for name in metrics if name.startswith("gold/")} == {f"gold/{name}" for name in WORLD.profiles}
    assert all(value > 0.5 for name, value in metrics.items() if name.startswith("gold/"))


def test_a_model_that_says_nothing_has_none(monkeypatch, model):
    recite_answers(monkeypatch, lambda task: "")
    metrics = answer_metrics(model, TOKENIZER, DATA, CONFIG, story_in_user_turn=True)
    assert metrics["accuracy"] == 0 and metrics["gold/warm"] == 0 and metrics["unsupported"] == 0


def test_half_right_by_hand(monkeypatch, model):
    """Right in every second of n tasks: the standard error is sqrt(1/2 · 1/2 / n)."""
    turn = iter(range(10_000))
    recite_answers(monkeypatch, lambda task: task.reference if next(turn) % 2 else "")
    metrics = answer_metrics(model, TOKENIZER, DATA, CONFIG, story_in_user_turn=True)
    assert metrics["accuracy"] == 0.5
    assert metrics["accuracy_standard_error"] == pytest.approx((0.25 / metrics["tasks"]) ** 0.5)
    assert metrics["accuracy/where"] == 0.5


def test_without_the_story_a_reader_knows_what_it_can_guess(monkeypatch, model):
    """A model that answers right only while it sees the story has of the question alone what frequency gives."""
    recite_answers(monkeypatch, lambda task: task.reference if task.story else "")
    metrics = answer_metrics(model, TOKENIZER, DATA, CONFIG, story_in_user_turn=True)
    reading = [task for task in held_out_tasks(WORLD, 0, 4) if task.kind in WORLD.reading_kinds]
    frequent = majority_answer_accuracy(WORLD, reading, 0, 60)
    assert {f"question_only/{kind}" for kind in WORLD.reading_kinds} == {
        name for name in metrics if name.startswith("question_only")
    }
    for kind in WORLD.reading_kinds:
        assert metrics[f"accuracy/{kind}"] == 1
        assert metrics[f"question_only/{kind}"] == frequent[kind]
    assert sum(frequent.values()) / len(frequent) < 0.7


def test_a_model_that_guesses_right_without_the_story_is_found_out(monkeypatch, model):
    recite_answers(monkeypatch, lambda task: task.reference)
    metrics = answer_metrics(model, TOKENIZER, DATA, CONFIG, story_in_user_turn=True)
    assert all(value == 1 for name, value in metrics.items() if name.startswith("question_only"))


def test_the_most_frequent_answer_counted_by_hand():
    tasks = [WORLD.task("test", 0, index, "where") for index in range(40)]
    asked = [task.question for task in tasks if task.question]
    examples = [WORLD.task("train", 0, index, "where").question for index in range(60)]

    def best(fits):
        values = [example.value for example in examples if example and fits(example)]
        return max(dict.fromkeys(values), key=values.count) if values else None

    same = [best(lambda e, q=question: e.pattern == q.pattern) == question.value for question in asked]
    form = [best(lambda e, q=question: e.pattern.kind == q.pattern.kind) == question.value for question in asked]
    kind = [best(lambda e: True) == question.value for question in asked]
    expected = max(sum(hits) for hits in (same, form, kind)) / 40
    assert majority_answer_accuracy(WORLD, tasks, 0, 60) == {"where": pytest.approx(expected)}


def test_the_base_is_asked_as_in_its_documents_and_the_chat_as_in_its_conversations():
    task = WORLD.task("test", 0, 0, "where")
    question = task.messages[0].content.removeprefix(task.story).strip()
    base, chat = (
        TOKENIZER.decode(task_prompt(TOKENIZER, task, form), keep_special_tokens=True) for form in (False, True)
    )
    assert base == f"<|bos|> {task.story}<|end|><|user|> {question}<|end|><|assistant|>"
    assert chat == f"<|bos|><|user|> {task.messages[0].content}<|end|><|assistant|>"


def test_held_out_tasks_are_of_every_kind_and_made_once():
    tasks = held_out_tasks(WORLD, 0, 4)
    assert [task.kind for task in tasks] == [kind for kind in WORLD.task_kinds for _ in range(4)]
    assert held_out_tasks(WORLD, 0, 4) is tasks


def test_true_stories_are_grammatical_consistent_and_known(recite, model):
    recite(STORIES[:30])
    metrics = story_metrics(model, TOKENIZER, DATA, CONFIG)
    assert metrics["grammatical"] == metrics["consistent"] == 1
    assert metrics["novel"] == 0 and metrics["stories"] == 20


def test_shares_are_of_sentences_and_of_events(recite, model):
    """Of three sentences two parse; of these two events one cannot be: nobody gives what they do not have."""
    one, other = WORLD.lexicon.values["person"][:2]
    thing = WORLD.lexicon.values["thing"][0]
    scene = WORLD.document("train", 0, 0, "scene").passage.split(". ")[0] + "."
    gift = Event("give", (one, thing, other))
    written = WORLD.grammar.write(gift, {}, random.Random(0))
    assert WORLD.check(written).possible == 0
    recite([f"{scene} {written} Blue the ran of."] * 30)
    metrics = story_metrics(model, TOKENIZER, DATA, CONFIG)
    assert metrics["grammatical"] == pytest.approx(2 / 3) and metrics["consistent"] == pytest.approx(1 / 2)
    assert metrics["novel"] == 1 and metrics["story_sentences"] == 60


def test_texts_in_which_nothing_happens_are_passed_over_only_when_flawless():
    facts = next(document.passage for document in TRAINED if document.kind == "facts")
    scene = next(document.passage for document in TRAINED if document.kind == "scene")
    assert is_valid_without_events(WORLD, facts) and is_valid_without_events(WORLD, scene)
    assert not is_valid_without_events(WORLD, facts + " Blue the ran of.")
    assert not is_valid_without_events(WORLD, STORIES[0])
    assert not is_valid_without_events(WORLD, "")


def test_stories_are_written_until_there_are_enough(recite, model):
    facts = next(document.passage for document in TRAINED if document.kind == "facts")
    recite([facts] * 25 + STORIES[:5] + STORIES[5:30])
    assert generate_stories(model, TOKENIZER, WORLD, CONFIG) == STORIES[:20]
    recite([facts] * 90)
    assert generate_stories(model, TOKENIZER, WORLD, CONFIG) == []


def test_novelty_by_hand():
    """Four stories, two of them among the 200 trained on; comparing half of the documents, a find counts twice."""
    stories = [TRAINED[0].passage, TRAINED[2].passage, "New.", "Newer."]
    assert novel_story_share(stories, DATA, max_compared_documents=200) == 0.5
    assert novel_story_share(stories, DATA, max_compared_documents=1000) == 0.5
    assert novel_story_share([TRAINED[0].passage, "New.", "Newer.", "Newest."], DATA, max_compared_documents=100) == 0.5
    assert (
        novel_story_share(stories, dataclasses.replace(DATA, num_trained_documents=0), max_compared_documents=200) == 1
    )


def test_a_base_and_a_chat_model_from_end_to_end(model):
    base = evaluate_base(model, TOKENIZER, DATA, CONFIG)
    chat = evaluate_chat(model, TOKENIZER, DATA, CONFIG)
    assert {"validation_loss", "bits_per_byte", "grammatical", "consistent", "novel", "accuracy"} <= set(base)
    assert {"accuracy", "accuracy/where", "question_only/where", "gold/concise", "unsupported"} <= set(chat)
    assert 5 < base["validation_loss"] < 8 and 5 < chat["validation_loss"] < 8
    assert chat["validation_tokens"] < base["validation_tokens"]
    assert all(isinstance(value, (int, float)) for value in (base | chat).values())
    assert base == evaluate_base(model, TOKENIZER, DATA, CONFIG)
    assert all(0 <= value <= 1 for name, value in chat.items() if name.startswith(("accuracy", "gold", "question")))


def test_samples_are_the_same_prompts_for_every_model(model):
    base = sample_answers(model, TOKENIZER, DATA, CONFIG, chat=False)
    chat = sample_answers(model, TOKENIZER, DATA, CONFIG)
    assert len(chat) == 5
    assert [(s.prompt, s.reference) for s in base] == [(s.prompt, s.reference) for s in chat]
    assert all(sample.prompt and sample.reference for sample in chat)


def conversation(number):
    turns = (Message("user", f"Who has {number} kites?"), Message("assistant", f"Tom has {number} kites."))
    return Document("conversation", "", turns)


TEXT = TextData(["Tom saw a kite over the park.\n" * 40], [conversation(n) for n in range(12)], 64)


def test_real_text_has_losses_alone(model):
    base = evaluate_base(model, TOKENIZER, TEXT, CONFIG)
    assert set(base) == {"validation_loss", "bits_per_byte", "nats_per_character", "validation_tokens"}
    chat = evaluate_chat(model, TOKENIZER, TEXT, CONFIG)
    assert set(chat) == {"validation_loss", "bits_per_byte", "validation_tokens", "mismatched_question_loss"}
    short = evaluate_base(model, TOKENIZER, TEXT, dataclasses.replace(CONFIG, characters=30))
    assert short["validation_tokens"] == len(TOKENIZER.encode(str(TEXT.texts[0])[:30]))


def test_samples_of_real_text(model):
    chat = sample_answers(model, TOKENIZER, TEXT, CONFIG)
    base = sample_answers(model, TOKENIZER, TEXT, CONFIG, chat=False)
    assert [s.prompt for s in chat] == [f"Who has {n} kites?" for n in range(5)]
    assert [s.prompt.strip() for s in base] == [s.prompt for s in chat]
    assert chat[3].reference == "Tom has 3 kites."
    lines = sample_answers(model, TOKENIZER, dataclasses.replace(TEXT, conversations=[]), CONFIG)
    assert [s.prompt for s in lines] == ["Tom saw a kite over the park."] * 5
    assert all(sample.response for sample in lines)


def small(context):
    torch.manual_seed(0)
    return Transformer(ModelConfig(TOKENIZER.vocab_size, context=context, width=32, depth=1, heads=1))


def test_tasks_without_room_for_an_answer_are_left_out_and_counted():
    context = 48
    tasks = held_out_tasks(WORLD, CONFIG.seed, CONFIG.tasks_per_kind)
    room = {True: context - context // 2, False: context - CONFIG.answer_max_new_tokens}
    longest = [max(len(task_prompt(TOKENIZER, task, chat)) for chat in (False, True)) for task in tasks]
    fit = [length <= room[task.kind == "write"] for task, length in zip(tasks, longest, strict=True)]
    assert 0 < sum(fit) < len(tasks)
    for chat in (False, True):
        metrics = answer_metrics(small(context), TOKENIZER, DATA, CONFIG, chat)
        assert (metrics["tasks"], metrics["tasks_left_out"]) == (sum(fit), len(tasks) - sum(fit))
    assert "tasks_left_out" not in answer_metrics(small(384), TOKENIZER, DATA, CONFIG, True)
    assert answer_metrics(small(12), TOKENIZER, DATA, CONFIG, True)["tasks"] == 0


def test_samples_are_of_prompts_that_leave_room():
    long = Document("conversation", "", (Message("user", "kite " * 60), Message("assistant", "Yes.")))
    data = dataclasses.replace(TEXT, conversations=[long, *TEXT.conversations])
    for chat in (False, True):
        found = sample_answers(small(64), TOKENIZER, data, CONFIG, chat)
        assert [sample.prompt.strip() for sample in found] == [f"Who has {n} kites?" for n in range(5)]
    assert len(sample_answers(small(48), TOKENIZER, DATA, CONFIG)) < 5
    assert sample_answers(small(12), TOKENIZER, dataclasses.replace(TEXT, conversations=[long]), CONFIG) == []


def test_the_first_characters_of_many_texts():
    assert truncate_texts(["abc", "defg", "h"], 5) == ["abc", "de"]
    assert truncate_texts(["abc", "de"], 100) == ["abc", "de"]
