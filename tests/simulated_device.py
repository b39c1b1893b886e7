"""A GPU for machines that have none: CPU tensors that say they are on one, and that refuse what a GPU would refuse.

    with simulated_device("cuda"):
        model.to("cuda:0")(torch.tensor([[1]]))  # RuntimeError: the tokens are on the CPU

Values are the CPU's, so whatever is computed equals what the CPU computes, as long as no tensor is on the wrong device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map

MOVES = (
    "Tensor.to",
    "Tensor.cpu",
    "Tensor.cuda",
    "Tensor.copy_",
    "Tensor.__getitem__",
    "Tensor.__setitem__",
    "_has_compatible_shallow_copy_type",
)
"""What may read tensors of two devices."""
JOINS = ("torch.stack", "torch.cat", "torch.isin", "torch.searchsorted", "Tensor.index_copy_", "Tensor.scatter_")
"""What takes no number from the CPU either; most operations do."""
TO_CPU = ("Tensor.numpy", "Tensor.__array__")


class OnDevice(Tensor):
    """A tensor on the simulated device; `simulated_device` gives it its meaning."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"A tensor of a simulated device is used outside of it, by {resolve_name(func)}.")


class _Simulation(TorchFunctionMode):
    """Answers every call of torch as a machine with this device would."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.simulated = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = (resolve_name(func) or func.__name__).replace("torch.Tensor.", "Tensor.")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in tensors if isinstance(x, OnDevice)]
        if there and name in ("Tensor.device.__get__", "Tensor.is_cuda.__get__", "Tensor.is_cpu.__get__"):
            return {"device": self.simulated, "is_cuda": self.simulated.type == "cuda"}.get(name.split(".")[1], False)
        if there and name in TO_CPU:
            raise TypeError(f"can't convert {self.simulated} device type tensor to numpy.")
        if there and name == "Tensor.__deepcopy__":
            return _copied(*args)
        asked, args, kwargs = self._placed(name, args, kwargs or {})
        if there and name not in MOVES:
            strict = name in JOINS
            strangers = [x for x in tensors if not isinstance(x, OnDevice) and (strict or x.ndim > 0)]
            if strangers and not name.endswith("__set__"):
                raise RuntimeError(f"{name}: tensors on {self.simulated} and cpu, {len(strangers)} of them there")
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **kwargs)
        on_device = bool(there) if asked is None else asked
        if name in ("Tensor.copy_", "Tensor.__getitem__"):
            on_device = isinstance(args[0], OnDevice)
        return tree_map(self._on_device if on_device else _on_cpu, found)

    def _placed(self, name: str, args: Any, kwargs: Any) -> tuple[bool | None, Any, Any]:
        """Whether the result was asked to be on the device (None: not said), and the arguments without saying so."""
        if name in ("Tensor.cpu", "Tensor.cuda"):
            return name == "Tensor.cuda", args, kwargs
        if name == "Tensor.to" and len(args) > 1 and isinstance(args[1], Tensor):
            return isinstance(args[1], OnDevice), args, kwargs
        places = [x for x in (*args[1:2], kwargs.get("device")) if self._is_place(x)]
        if not places or name.startswith(("torch.autocast", "torch.is_autocast", "torch.get_autocast")):
            return None, args, kwargs
        asked = torch.device(places[0]).type == self.simulated.type
        if asked and kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: the generator is on cpu, its numbers on {self.simulated}")

        def placed(x: Any) -> Any:
            return "cpu" if self._is_place(x) else x

        return asked, tuple(map(placed, args)), {key: placed(x) for key, x in kwargs.items()}

    def _is_place(self, x: Any) -> bool:
        return isinstance(x, torch.device) or (isinstance(x, str) and x.split(":")[0] in ("cpu", self.simulated.type))

    def _on_device(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, OnDevice):
            return x
        if self.simulated.type == "mps" and x.dtype == torch.float64:
            raise TypeError("The MPS framework doesn't support float64.")
        with torch._C.DisableTorchFunctionSubclass():
            return x.as_subclass(OnDevice)


def _on_cpu(x: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(Tensor) if isinstance(x, OnDevice) else x


def _copied(x: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(x) not in memo:
        with torch._C.DisableTorchFunctionSubclass():
            made = x.detach().clone().as_subclass(OnDevice).requires_grad_(x.requires_grad)
        made.__dict__.update(x.__dict__)  # what makes it a parameter
        memo[id(x)] = made
    return memo[id(x)]


@contextmanager
def simulated_device(kind: str) -> Iterator[torch.device]:
    """Inside, this machine has one device of this kind, "cuda" or "mps". Without bf16."""
    device = torch.device(kind, 0)
    module = torch.get_device_module(kind)
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for where, changes in (
            (torch.cuda, {"is_available": kind == "cuda", "device_count": int(kind == "cuda")}),
            (torch.cuda, {"is_bf16_supported": False, "get_device_name": "Simulated GPU", "_lazy_init": None}),
            (torch.cuda, {"set_device": None}),
            (torch.cuda, {"reset_peak_memory_stats": None, "max_memory_allocated": 10**6, "synchronize": None}),
            (torch.backends.mps, {"is_available": kind == "mps"}),
            (module, {"get_rng_state": torch.zeros(1), "set_rng_state": None, "synchronize": None}),
        ):
            for name, value in changes.items():
                stack.enter_context(mock.patch.object(where, name, lambda *a, value=value, **k: value))
        memory = SimpleNamespace(total_memory=80 * 10**9)
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_properties", lambda *given: memory))
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a moved parameter is another object
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwritten)
        stack.enter_context(_Simulation(device))
        yield device
