"""Which device computes, and at which precision."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Final, Literal

import torch

from mammo.core.errors import ConfigError

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_ON_HEAP: Final = 32 * 2**20
"""The most that glibc takes as its threshold, in bytes; the activations of a batch are smaller."""


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: `cuda` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("params.yaml: train.device is cuda but no GPU is visible; set it to auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":  # kernels that give the same bits twice, and whole float32 where float32 is asked for
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def hardware(device: torch.device) -> str:
    """The GPU's name, or the instructions that the CPU's kernels use (`AVX512`)."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capability = torch.backends.cpu.get_cpu_capability()
    return capability == "AVX512" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def precision_on(device: torch.device, precision: str) -> Literal["float32", "bfloat16"]:
    """What `auto` means on a device: bfloat16 where its hardware multiplies it. Other precisions mean themselves."""
    reduced = precision == "bfloat16" or (precision == "auto" and computes_bfloat16(device))
    return "bfloat16" if reduced else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context in which the forward pass runs at `precision` (`auto`, `float32` or `bfloat16`)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision_on(device, precision) == "bfloat16")


@contextmanager
def cpu_threads(n_threads: int | None) -> Iterator[None]:
    """Compute with this many CPU threads; None changes nothing."""
    before = torch.get_num_threads()
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_freed_memory() -> None:
    """Advice to the C library (glibc alone) to keep the memory of freed tensors for the next ones.

    By default it maps and unmaps every large tensor anew, and touching the fresh pages takes a quarter of a
    training step on a CPU (`benchmarks/README.md`). No result changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
