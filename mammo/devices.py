"""Which device computes, and at which precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from mammo.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one.

    Raises:
        ConfigError: `cuda` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("params.yaml: train.device is cuda but no GPU is visible; set it to auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capability = torch.backends.cpu.get_cpu_capability()
    return capability == "AVX512" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context in which the forward pass runs at `precision` (`auto`, `float32` or `bfloat16`)."""
    reduced = precision == "bfloat16" or (precision == "auto" and computes_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced)


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
