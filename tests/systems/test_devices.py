"""A device that does not exist is refused, and the precision asked for is the one that computes."""

import pytest
import torch

from mammo.core.errors import ConfigError
from mammo.systems.devices import autocast, choose_device, computes_bfloat16, cpu_threads

CPU = torch.device("cpu")


def dtype_of_a_product(precision: str) -> torch.dtype:
    with autocast(CPU, precision):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device("auto").type == device
    assert choose_device("cpu") == CPU


def test_a_gpu_is_asked_for_repeatable_convolutions_in_whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("deterministic", False), ("benchmark", True), ("allow_tf32", True)):
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    choose_device("cuda")
    cudnn = torch.backends.cudnn
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (True, False, False)


def test_a_gpu_that_is_not_there_is_refused_with_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"train\.device is cuda but no GPU.*set it to auto or cpu"):
        choose_device("cuda")


@pytest.mark.parametrize(("hardware", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_precision_asked_for_is_computed_and_auto_is_bfloat16_only_where_hardware_computes_it(
    monkeypatch: pytest.MonkeyPatch, hardware: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr("mammo.systems.devices.computes_bfloat16", lambda _: hardware)
    assert dtype_of_a_product("auto") == expected
    assert dtype_of_a_product("float32") == torch.float32
    assert dtype_of_a_product("bfloat16") == torch.bfloat16


def test_a_cpu_without_avx512_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not computes_bfloat16(CPU)


def test_threads_are_set_for_a_while_and_then_as_before() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with cpu_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
