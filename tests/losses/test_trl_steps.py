"""TRL's PRMTrainer: where it puts the labels of steps, and its loss, on the same tokens. See tests/trl_source.py."""

import ast
from itertools import chain

import pytest
import torch

from labkit.losses import step_loss
from labkit.text.chat import encode_prompt, encode_prompt_and_answer
from labkit.text.steps import StepwiseAnswer, encode_steps, step_batch
from labkit.world import Message
from tests.tiny_alignment import tiny_materials
from tests.trl_source import method, run

ANSWER = StepwiseAnswer(
    (Message("user", "Where is Anna?"),),
    ("Sure!", "Anna is in the park.", "Ben is sad."),
    (True, False, True),
)


class Pieces:
    """What TRL asks of a tokenizer: our ids of the prompt and of each sentence; the last has the end token."""

    bos_token_id = None

    def __init__(self, tokenizer):
        row, _ = encode_prompt_and_answer(tokenizer, ANSWER.prompt, ANSWER.answer)
        first, second, third = (tokenizer.encode(" " + sentence) for sentence in ANSWER.completions)
        self.ids = {"prompt": encode_prompt(tokenizer, ANSWER.prompt)}
        self.ids |= dict(zip(ANSWER.completions, (first, second, [*third, row[-1]]), strict=True))

    def __call__(self, text, add_special_tokens):
        return {"input_ids": self.ids[text]}

    def encode(self, separator, add_special_tokens):
        return []


@pytest.mark.parametrize("last_only", [False, True])
def test_labels_stand_where_trl_puts_them(last_only):
    tokenizer = tiny_materials().tokenizer
    known = run(ast.Module([method("trainer/prm_trainer.py", "tokenize_row")], []), chain=chain)
    row = {"prompt": "prompt", "completions": list(ANSWER.completions), "labels": list(ANSWER.labels)}
    theirs = known["tokenize_row"](row, Pieces(tokenizer), "", None, None, None, last_only, False)
    batch = step_batch([encode_steps(tokenizer, ANSWER)], 96, tokenizer.pad_token_id, last_only)
    length = len(theirs["input_ids"])
    assert batch.inputs[0, :length].tolist() == theirs["input_ids"]
    ours = torch.where(batch.step_ends, batch.correct.long(), -100)[0]
    assert ours[:length].tolist() == theirs["labels"] and (ours[length:] == -100).all()


def test_the_loss_is_that_of_a_token_classifier_of_two_logits():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 7, 2), torch.randint(-1, 2, (3, 7))
    ends = labels >= 0
    expected = torch.nn.functional.cross_entropy(
        logits.view(-1, 2), labels.masked_fill(~ends, -100).view(-1), ignore_index=-100
    )
    loss = step_loss(logits[..., 1] - logits[..., 0], labels == 1, ends)
    torch.testing.assert_close(loss.loss_sum / loss.step_count, expected)
