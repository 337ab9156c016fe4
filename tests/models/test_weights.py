"""Pretrained weights are loaded exactly or refused."""

import io
import pickle
import re
from collections.abc import Callable
from email.message import Message
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models as tv

from mammo.core.errors import WeightsError
from mammo.core.files import Workspace
from mammo.models.backbones import full_network
from mammo.models.build import build_classifier, load_pretrained
from tests.settings import tiny_model

BACKBONE = "mobilenet_v2"
CACHED_FILE = "mobilenet_v2-7ebf99e0.pth"
"""The name that torchvision gives its default ImageNet weights of this backbone."""

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """A checkpoint of the right shapes whose every tensor differs from a new network's."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + 7 if name.endswith("num_batches_tracked") else torch.rand(value.shape, generator=generator)
        for name, value in full_network(BACKBONE).state_dict().items()
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's cache folder, empty, on a machine without a network."""

    def no_network(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def assert_holds(network: nn.Module, state: State) -> None:
    for name, value in network.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(value, state[name]), name


def without_counters(state: State) -> State:
    """As torchvision's files of 2017 are (vgg16_bn, vgg19_bn, densenet121); BatchNorm's counter came in 2018."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


OTHER_CLASSES = {"classifier.1.weight": torch.ones(5, 1280), "classifier.1.bias": torch.ones(5)}


@pytest.mark.parametrize(
    ("file", "save"), [("net.pth", torch.save), ("net.pt", torch.save), ("net.safetensors", save_file)]
)
@pytest.mark.parametrize(
    "variant",
    [
        dict,
        without_counters,
        lambda state: {name: value for name, value in state.items() if not name.startswith("classifier.")},
        lambda state: state | OTHER_CLASSES,
    ],
)
def test_a_state_dict_fits_whatever_its_classifier_and_age(
    tmp_path: Path,
    state: State,
    file: str,
    save: Callable[[State, Path], None],
    variant: Callable[[State], State],
) -> None:
    save(variant(state), tmp_path / file)
    network = full_network(BACKBONE)
    load_pretrained(BACKBONE, str(tmp_path / file), network)
    fresh = {name: torch.tensor(0) for name in state if name.endswith("num_batches_tracked")}
    assert_holds(network, state | (fresh if variant is without_counters else {}))


def test_a_classifier_starts_with_the_backbone_of_the_file(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "net.safetensors")
    config = tiny_model(weights=str(tmp_path / "net.safetensors"))
    blocks = build_classifier(f"{BACKBONE}-model1", config, seed=0).backbone.state_dict()
    assert len(blocks) == len(state) - 2  # all but the weight and the bias of torchvision's own classifier
    assert all(torch.equal(value, state[name]) for name, value in blocks.items())


def test_torchvisions_old_names_of_densenet_layers_fit(tmp_path: Path) -> None:
    network = full_network("densenet121")
    quarters = {k: torch.full_like(v, 0.25) for k, v in without_counters(network.state_dict()).items()}
    old = {re.sub(r"(denselayer\d+\.(norm|conv))(\d)", r"\1.\3", name): v for name, v in quarters.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121.pth")
    load_pretrained("densenet121", str(tmp_path / "densenet121.pth"), network)
    features = without_counters(network.get_submodule("features").state_dict())
    assert features
    assert all(bool((value == 0.25).all()) for value in features.values())


def test_what_does_not_fit_is_refused_by_name_and_changes_nothing(tmp_path: Path, state: State) -> None:
    save_file(state | {"features.0.0.weight": torch.ones(32, 1, 3, 3)}, tmp_path / "net.safetensors")
    network = full_network(BACKBONE)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 tensors .* first features\.0\.0\.weight; .*mobilenet_v2"):
        load_pretrained(BACKBONE, str(tmp_path / "net.safetensors"), network)
    with pytest.raises(WeightsError, match="does not fit resnet50"):
        load_pretrained("resnet50", str(tmp_path / "net.safetensors"), full_network("resnet50"))
    assert_holds(network, before)


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, {"state_dict": {"a": torch.ones(1)}}, {1: torch.ones(1)}])
def test_a_file_that_is_no_plain_state_dict_is_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="must hold a plain state dict of tensors"):
        load_pretrained(BACKBONE, str(tmp_path / "net.pth"), nn.Identity())


@pytest.mark.parametrize("file", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, r"got .*net\.\w+; set model\.weights to none"),
        (b"", r"is not a readable state dict .*set model\.weights to none"),
        (b"not weights at all, but long enough to be a header", "is not a readable state dict"),
    ],
)
def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path, file: str, content: bytes | None, rule: str) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError, match=rule):
        load_pretrained(BACKBONE, str(tmp_path / file), nn.Identity())


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off", b"\x80\x02 no tensors"])
def test_without_a_whole_cache_and_network_the_error_says_what_to_put_where(hub: Path, content: bytes | None) -> None:
    if content is not None:
        (hub / CACHED_FILE).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        load_pretrained(BACKBONE, "imagenet", nn.Identity())
    message = str(caught.value)
    assert f"download {tv.MobileNet_V2_Weights.DEFAULT.url} to {hub / CACHED_FILE}" in message
    assert "set model.weights to none" in message
    assert ("Name or service not known" in message) == (content is None)


def test_a_pickled_object_is_refused_and_never_run(hub: Path, tmp_path: Path) -> None:
    payload = Payload(tmp_path / "trace")
    torch.save({"features.0.0.weight": payload}, tmp_path / "net.pth")
    (hub / CACHED_FILE).write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(WeightsError, match=r"net\.pth: is not a readable state dict \(it holds other things"):
        load_pretrained(BACKBONE, str(tmp_path / "net.pth"), nn.Identity())
    with pytest.raises(WeightsError, match="can be neither read from the cache nor downloaded"):
        load_pretrained(BACKBONE, "imagenet", nn.Identity())
    assert not (tmp_path / "trace").exists()


def test_a_download_of_another_hash_is_refused_and_not_kept_and_what_the_cache_holds_is_used(
    hub: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = io.BytesIO(b"other weights")
    monkeypatch.setattr(answer, "info", Message, raising=False)
    monkeypatch.setattr(torch.hub, "urlopen", lambda *_, **__: answer)
    network = full_network(BACKBONE)
    with pytest.raises(WeightsError, match="invalid hash value"):
        load_pretrained(BACKBONE, "imagenet", network)
    assert list(hub.iterdir()) == []
    torch.save(state, hub / CACHED_FILE)
    load_pretrained(BACKBONE, "imagenet", network)
    assert_holds(network, state)


@pytest.fixture(scope="module")
def convolutions() -> State:
    """Such as the file of `hed` holds; kernels as float16."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in tv.vgg16().state_dict().items() if k.startswith("features.")}
    drawn = {k: torch.randn(shape, generator=generator) / 50 for k, shape in shapes.items()}
    return {name: value.half() if value.ndim == 4 else value for name, value in drawn.items()}


@pytest.fixture
def with_hed(convolutions: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A workspace that has fetched them, as the current folder."""
    monkeypatch.chdir(tmp_path)
    path = Workspace().hed
    path.parent.mkdir(parents=True)
    save_file(convolutions, path)
    monkeypatch.setattr("mammo.models.build.HED_SHA256", sha256(path.read_bytes()).hexdigest())
    return convolutions


HED = tiny_model(weights="hed")


def test_hed_gives_vgg16_its_convolutions_and_the_papers_preprocessing(with_hed: State) -> None:
    classifier = build_classifier("vgg16-model1", HED, seed=0)
    found = classifier.backbone.state_dict()
    assert found.keys() == with_hed.keys()
    assert all(torch.equal(found[name], with_hed[name].float()) for name in found)
    assert classifier.preprocessing.name == "samplewise_center"


def test_hed_is_read_from_the_workspace_that_is_named(
    with_hed: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(WeightsError, match=r"got no file; run `mammo fetch --weights hed`"):
        build_classifier("vgg16-baseline", HED, 0)
    found = build_classifier("vgg16-baseline", HED, 0, Workspace(tmp_path)).backbone.state_dict()
    assert torch.equal(found["features.0.weight"], with_hed["features.0.weight"].float())


def test_under_torchvisions_normalisation_hed_sees_grey_levels_minus_the_mean_all_the_same(
    with_hed: State,
) -> None:
    centred = build_classifier("vgg16-baseline", HED, seed=0).eval()
    config = tiny_model(weights="hed", preprocessing="imagenet")
    normalised = build_classifier("vgg16-baseline", config, seed=0).eval()
    patches = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 255
    kernel, bias = with_hed["features.0.weight"].float(), with_hed["features.0.bias"]
    first = normalised.backbone.get_submodule("features.0")
    with torch.no_grad():
        by_channel = patches - 255 * torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        expected = nn.functional.conv2d(by_channel, kernel, bias, padding=1)
        assert torch.allclose(first(normalised.preprocessing(patches)), expected, rtol=1e-4, atol=1e-3)
        normalised.preprocessing.mean.fill_(float(patches.mean()) / 255)  # as if it were the patch's own
        block, other = (classifier.blocks(patches)["block1"] for classifier in (centred, normalised))
    assert block.std() > 0.1
    assert torch.allclose(block, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("system", ["vgg19-model1", "vgg16_bn-model2", "resnet50-baseline", "compact-model1"])
def test_hed_is_refused_for_every_other_backbone_and_the_error_names_the_systems_that_fit(
    system: str,
) -> None:
    with pytest.raises(WeightsError, match=rf"model\.weights: hed .* {system}; take vgg16-baseline, .* none"):
        build_classifier(system, HED, seed=0)


@pytest.mark.parametrize(("content", "got"), [(None, "no"), (b"damaged", "another")])
def test_hed_not_fetched_or_damaged_is_refused_and_the_error_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, got: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Workspace().hed.parent.mkdir(parents=True)
        Workspace().hed.write_bytes(content)
    rule = rf"data/weights/vgg16_hed\.safetensors .*, got {got} file; run `mammo fetch --weights hed`"
    with pytest.raises(WeightsError, match=rule):
        load_pretrained("vgg16", "hed", nn.Identity())
