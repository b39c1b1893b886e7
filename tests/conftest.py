"""What every test shares: one thread, fixed seeds, and the folder of real text when it is there."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Child processes of the tests keep to one thread too, and never reach for the network. Models are on the CPU, or
    on the device that LABKIT_TEST_DEVICE names.
    """
    device = os.environ.get("LABKIT_TEST_DEVICE") or ("cpu" if _has_gpu() else "")
    if device:
        os.environ["LABKIT_DEVICE"] = device
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # What a processor can do is not tried out by building a library for it, in every process that compiles.
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests for a GPU only where there is one. The slow tests first, spread over the workers by their files: of workers
    that steal work from each other (`-n auto --dist worksteal`), which begin with equal shares of the list, each begins
    with long ones, and none ends with one alone.
    """
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if for_gpu and not _has_gpu("cuda"):
        config.hook.pytest_deselected(items=for_gpu)
        items[:] = [item for item in items if item not in for_gpu]
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    files = list(dict.fromkeys(item.path for item in slow))
    shares = [[item for item in slow if files.index(item.path) % workers == at] for at in range(workers)]
    for at, share in enumerate(shares):
        begins, ends = (len(items) * place // workers for place in (at, at + 1))
        more = max(0, ends - begins - len(share))
        share += others[:more]
        del others[:more]
    items[:] = [item for share in shares for item in share]


def _has_gpu(kind: str = "") -> bool:
    import torch

    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return here is not None and here.type.startswith(kind)


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """One thread and seed 0 for torch, if the test (or what it imports) has loaded torch."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real text: the one that LABKIT_CORPORA names, else a small stand-in with the same files."""
    if os.environ.get("LABKIT_CORPORA"):
        return Path(os.environ["LABKIT_CORPORA"]).resolve()
    folder = tmp_path_factory.mktemp("corpora")
    (folder / "tinyshakespeare.txt").write_text(_play(scenes=400), encoding="utf-8")
    rows = _instructions(rows=120)
    pairs = [row | {"chosen": row["output"], "rejected": f"How dull. {row['output']}"} for row in rows]
    (folder / "instructions.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "instruction-preferences.json").write_text(json.dumps(pairs), encoding="utf-8")
    return folder


def _play(scenes: int) -> str:
    """Lines of a play in the layout of the real file: a speaker in capitals, what is said, an empty line."""
    said = ("Speak, speak.", "What news from the city?", "We are all resolved.", "Let us hear him first.")
    speakers = ("FIRST CITIZEN", "ALL", "MENENIUS", "BRUTUS", "SICINIUS")
    lines = [f"{speakers[i % 5]}:\n{said[i % 4]} {said[(i // 4) % 4]}\n" for i in range(scenes)]
    return "\n".join(lines)


def _instructions(rows: int) -> list[dict[str, str]]:
    """Instruction rows with the real file's columns; every second one has an input."""
    return [
        {
            "instruction": "Add the two numbers." if i % 2 else f"Which number comes after {i}?",
            "input": f"{i} and {i + 1}" if i % 2 else "",
            "output": f"The sum is {2 * i + 1}." if i % 2 else f"After {i} comes {i + 1}.",
        }
        for i in range(rows)
    ]
