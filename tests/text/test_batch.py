"""Batch: the shift, by hand."""

from labkit.text.batch import shifted_batch


def test_the_shift_by_hand():
    batch = shifted_batch([[7, 8, 9], [5], []], [[False, True, True], [True], []], 4, pad_token_id=0)
    assert batch.inputs.tolist() == [[7, 8, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert batch.labels.tolist() == [[8, 9, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert batch.mask.tolist() == [[True, True, False, False], [False] * 4, [False] * 4]
    assert batch.label_count == 2
    assert [str(tensor.dtype) for tensor in batch] == ["torch.int64", "torch.int64", "torch.bool"]


def test_a_full_row_has_no_padding():
    batch = shifted_batch([[1, 2, 3, 4]], [[True, False, True, True]], 3, pad_token_id=0)
    assert batch.inputs.tolist() == [[1, 2, 3]]
    assert batch.labels.tolist() == [[2, 3, 4]]
    assert batch.mask.tolist() == [[False, True, True]]
    assert batch.to("cpu").labels.tolist() == [[2, 3, 4]]
