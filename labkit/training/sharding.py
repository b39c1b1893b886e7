"""Tensors of which each process holds a shard: some rows of the first dimension (a DTensor, Shard(0))."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from labkit.errors import LabError

# What torch has for shards takes a second to import, so it is imported where there are some.


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a shard of the tensor."""
    return hasattr(tensor, "to_local")


def local_shard(tensor: Any) -> Tensor:
    """This process's shard of a tensor; the tensor itself where it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def map_full_tensors(
    shards: Sequence[Tensor], like: Sequence[Tensor], make: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """This process's shards of make(whole), where `shards` are its shards of tensors that are sharded as `like`.

    Each whole tensor is gathered on one process, in turn, which alone computes: so many processes make as many at once.
    `make` keeps the shape.
    """
    processes, made = dist.get_world_size(), []
    for start in range(0, len(shards), processes):
        some, shapes = shards[start : start + processes], [one.shape for one in like[start : start + processes]]
        whole = [gather_to(shard, shape, owner) for owner, (shard, shape) in enumerate(zip(some, shapes, strict=True))]
        mine = dist.get_rank()
        if mine < len(whole):
            whole[mine] = make(whole[mine])
        made += [_scatter(*given, owner) for owner, given in enumerate(zip(whole, some, shapes, strict=True))]
    return made


def rows_per_shard(rows: int, processes: int) -> int:
    """Of each shard but the last ones, which may be shorter or empty."""
    return -(-rows // processes)


def _rows(shape: torch.Size) -> int:
    return rows_per_shard(shape[0], dist.get_world_size())


def _padded(rows: Tensor, count: int) -> Tensor:
    return F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, count - len(rows)]).contiguous()  # as gloo reads it


def gather_to(shard: Tensor, shape: torch.Size, owner: int) -> Tensor:
    """The whole tensor of this shape on the process `owner`; on the others one without rows."""
    own = _padded(shard, _rows(shape))
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())] if dist.get_rank() == owner else None
    dist.gather(own, parts, dst=owner)
    return torch.cat(parts)[: shape[0]] if parts else shard[:0]


def _scatter(whole: Tensor, shard: Tensor, shape: torch.Size, owner: int) -> Tensor:
    """What the owner has of this process's rows."""
    count = _rows(shape)
    parts = list(_padded(whole, count * dist.get_world_size()).split(count)) if dist.get_rank() == owner else None
    own = shard.new_empty(count, *shape[1:])
    dist.scatter(own, parts, src=owner)
    return own[: len(shard)]


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write sharded tensors as safetensors, each process its own shards; every process comes here."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    folder.mkdir(exist_ok=True)
    with _explain_checkpoint_errors(folder):
        dcp.save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_shards(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Copy what `write_shards` wrote into tensors of the same names, whole ones or shards of as many processes as there
    are now; every process comes here.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    state: dict[str, Any] = {name: tensor.detach() for name, tensor in into.items()}
    with _explain_checkpoint_errors(folder):
        dcp.load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not dist.is_initialized())


@contextmanager
def _explain_checkpoint_errors(folder: Path) -> Iterator[None]:
    """Raises in every process what was raised in one of them: an OSError as it is, else a LabError that names it."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        if isinstance(cause, OSError):
            raise cause from error
        raise LabError(f"Process {rank} cannot read or write its shard of {folder}: {cause}") from error


def read_full_tensors(file: Path, into: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors of a safetensors file, by their names there, into these, or this process's shards of them.

    into: (name in the file, tensor to copy it into); one name may stand there for several tensors.
    """
    with safe_open(str(file), "pt") as saved:
        for name, tensor in into:
            whole = saved.get_tensor(name)
            local_shard(tensor.detach()).copy_(local_shard(_shared_as(tensor, whole)))


def _shared_as(like: Any, whole: Tensor) -> Tensor:
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    whole = whole.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)  # every process has it
