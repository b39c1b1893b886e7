"""What a computation costs, counted without computing it: memory, products, bytes moved.

    with fake_tensors(), CostCounter() as cost:     # inside, tensors have shapes and types, and no numbers
        loss_sum, count, _ = objective(model, batch)
        loss_sum.backward()
    cost.peak_bytes, cost.flops

The very code of a step runs on torch's fake tensors. What is counted is therefore what its layers really keep for the
backward pass, the logits and their softmax among it, and no formula of one architecture. Counted as the processor runs
it without torch.compile, which keeps less.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from labkit.model.feedforward import MixtureOfExperts

M = TypeVar("M", bound=nn.Module)


class Work(NamedTuple):
    """What there is to compute. flops: of products of matrices, 2 M N K each. moved_bytes: read and written by all
    else. kernels: how many operations.
    """

    flops: float = 0.0
    moved_bytes: float = 0.0
    kernels: float = 0.0

    def plus(self, other: Work, times: float = 1.0) -> Work:
        """This, and `times` the other."""
        return Work(*(mine + times * theirs for mine, theirs in zip(self, other, strict=True)))


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Inside, tensors have no numbers and take no memory; real ones can be read beside them."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def has_numbers(model: nn.Module) -> bool:
    """Whether a model's weights are real, so that what they compute can be used."""
    return not any(isinstance(weight, FakeTensor) for weight in model.parameters())


def without_memory(make: Callable[[], M]) -> M:
    """What `make` builds, with fake weights: a model of any size. Inside `fake_tensors` only."""
    with unset_fake_temporarily(), torch.device("meta"):
        model = make()
    return model.to_empty(device="cpu")


class CostCounter(TorchDispatchMode):
    """Counts what runs inside.

    Attributes:
        live_bytes: of all tensors that are there now; peak_bytes: the most that there were.
        work: what was computed.
        mask_true_share: of a mask, by which a tensor is indexed, how much is True: a fake mask has no numbers.
        moves_operands: whether a product's matrices count as moved: where it has few rows, reading them takes its time.
    """

    def __init__(self, mask_true_share: float = 1.0, moves_operands: bool = False):
        super().__init__()
        self.mask_true_share, self.moves_operands = mask_true_share, moves_operands
        self.live_bytes: float = 0
        self.peak_bytes: float = 0
        self.work = Work()
        self._known: set[int] = set()
        self._shares: dict[int, float] = {}

    def change_live_bytes(self, num_bytes: float) -> None:
        """Count so many bytes more, or fewer, where the number is negative."""
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def track_tensor(self, tensor: Tensor, num_bytes: int | None = None) -> None:
        """Count the memory of a tensor until it is freed, once, however many tensors share it. num_bytes: what is
        counted in its place.
        """
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if num_bytes is None else num_bytes
        if key not in self._known:
            self._known.add(key)
            self.change_live_bytes(size)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._shares.pop(key, None)
        self.live_bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = self._indexed(*args) if _is_masked_index(func, args) else func(*args, **kwargs)
        outputs = [one for one in tree_leaves(made) if isinstance(one, Tensor)]
        for tensor in outputs:
            self.track_tensor(tensor)
        if _computes(func):
            self.work = self.work.plus(self._work(func, args, kwargs, made, outputs))
        return made

    def _work(self, func: Any, args: Any, kwargs: Any, made: Any, outputs: list[Tensor]) -> Work:
        counted = flop_registry.get(func._overloadpacket)
        flops = 0 if counted is None else counted(*args, **kwargs, out_val=made)
        if counted is not None and not self.moves_operands:
            return Work(flops, 0, 1)
        inputs = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        return Work(flops, sum(one.numel() * one.element_size() for one in (*inputs, *outputs)), 1)

    def _indexed(self, x: Tensor, indices: list[Tensor]) -> Tensor:
        """x[mask], of which `mask_true_share` is True; so in the backward pass, which asks again for the same mask."""
        (mask,) = indices
        share = self._shares.setdefault(mask.untyped_storage()._cdata, self.mask_true_share)
        rows = max(1, round(mask.numel() * share))
        return x.new_empty(rows, *x.shape[mask.ndim :])

    @contextmanager
    def even_routing(self, model: nn.Module) -> Iterator[None]:
        """Inside, each expert of the model takes its even share of the tokens."""
        before = self.mask_true_share

        def enter(module: Any, given: Any) -> None:
            self.mask_true_share = module.config.top_k / module.config.num_experts

        def leave(module: Any, given: Any, made: Any) -> None:
            self.mask_true_share = before

        hooks = []
        for module in model.modules():
            if isinstance(module, MixtureOfExperts):
                hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _is_masked_index(func: Any, args: Any) -> bool:
    if func is not torch.ops.aten.index.Tensor:
        return False
    (first, *others) = args[1]
    return not others and first is not None and first.dtype == torch.bool


def _computes(func: Any) -> bool:
    """Whether an operation touches numbers: it is no question about a tensor, and no other look at one."""
    returned = [one.alias_info for one in func._schema.returns]
    return func.namespace == "aten" and all(alias is None or alias.is_write for alias in returned)
