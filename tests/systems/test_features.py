"""Features of frozen backbones: those of the patches themselves, computed once, whole after a kill."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mammo.core.config import AugmentConfig, Config
from mammo.core.errors import ConfigError
from mammo.core.files import Workspace
from mammo.core.records import SPLITS
from mammo.data.patches import grid_patches
from mammo.data.rois import Rois
from mammo.models.build import Classifier, build_classifier
from mammo.systems import features
from mammo.systems.augment import crop
from mammo.systems.features import Extractor, KeptFeatures, keep_features
from mammo.systems.fit import fit
from mammo.systems.inputs import frozen_data, patch_data
from mammo.systems.score import grid_logits, patch_logits, turned
from mammo.systems.train import fit_settings
from pipelines import features as stage
from tests.disc_rois import disc_rois, workspace_of
from tests.settings import section
from tests.tiny_fits import CPU, FROZEN, recipe, tiny_config

TURNS = section(AugmentConfig, quarter_turns=True, zoom=0.0, flip_vertical=True)
STILL = section(AugmentConfig, rotation_deg=0.0, zoom=0.0, flip_horizontal=False)
SYSTEM = "compact-model2"


def config_of(
    augment: AugmentConfig = TURNS,
    road: str = "exact",
    features: str = "kept",
    precision: str = "float32",
    **how: Any,
) -> Config:
    frozen = recipe(**(FROZEN | how), augment=augment)
    return tiny_config(
        recipes__tiny=frozen.model_dump(),
        train__features=features,
        train__precision=precision,
        model__road=road,
    )


def classifier_of(config: Config, system: str = SYSTEM) -> Classifier:
    return build_classifier(system, config.model, 0).eval()


@pytest.fixture(scope="module")
def rois() -> Rois:
    return disc_rois(3, 3)


def logits_of(kept: KeptFeatures, classifier: Classifier, view: int) -> torch.Tensor:
    """Of the whole grid of every ROI in one view, `(rois, places, 2)`."""
    n_rois, n_places = len(kept.rows), len(kept.corners)
    roi, place = np.divmod(np.arange(n_rois * n_places), n_places)
    with torch.no_grad():
        logits = classifier.classify_pooled(kept.parts(roi, np.full_like(roi, view), place))
    return logits.view(n_rois, n_places, 2)


def test_kept_features_give_the_logits_of_each_view_of_each_patch(rois: Rois, tmp_path: Path) -> None:
    config = config_of()
    classifier = classifier_of(config)
    kept = keep_features(SYSTEM, config, rois.images, Workspace(tmp_path), classifier)
    data = patch_data(rois, grid_patches(rois.table, config.patches), CPU)
    assert kept.n_views == 8
    for view in range(8):
        expected = patch_logits(classifier, data.images, data.patches, 40, "float32", view=view)
        torch.testing.assert_close(
            logits_of(kept, classifier, view), expected.view(len(rois.images), 9, 2), atol=2e-3, rtol=2e-3
        )


@pytest.mark.parametrize(
    ("across", "down", "flips"),
    [
        (False, False, [()]),
        (True, False, [(), (3,)]),
        (False, True, [(), (2,)]),
        (True, True, [(), (3,), (2,), (2, 3)]),
    ],
)
def test_without_turns_the_views_are_the_flips_that_the_recipe_draws(
    rois: Rois, tmp_path: Path, across: bool, down: bool, flips: list[tuple[int, ...]]
) -> None:
    mirrors = STILL.model_copy(update={"flip_horizontal": across, "flip_vertical": down})
    config = config_of(mirrors)
    classifier = classifier_of(config)
    kept = keep_features(SYSTEM, config, rois.images, Workspace(tmp_path), classifier)
    data = patch_data(rois, grid_patches(rois.table, config.patches), CPU)
    patches = crop(data.images, data.patches, 40)
    assert kept.n_views == len(flips)
    for view, axes in enumerate(flips):
        with torch.no_grad():
            expected = classifier(patches.flip(axes)).view(len(rois.images), 9, 2)
        torch.testing.assert_close(logits_of(kept, classifier, view), expected, atol=2e-3, rtol=2e-3)


def test_a_window_of_the_turned_roi_is_the_place_that_the_patch_was_turned_to(rois: Rois) -> None:
    config = config_of(road="dense")
    classifier = classifier_of(config, "compact-model1")
    images = torch.from_numpy(rois.images)
    # A patch at row r and column c of a 3 × 3 grid lies elsewhere in the turned ROI: as a marked pixel tells.
    for view in range(8):
        marks = torch.arange(9.0).view(1, 1, 3, 3)
        moved = turned(marks, view).flatten().argsort()
        upright = turned(images[:, None], view)[:, 0].contiguous()
        expected = grid_logits(classifier, upright, config.patches, "float32")[:, moved]
        found = grid_logits(classifier, images, config.patches, "float32", view)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_dense_road_keeps_what_it_serves(rois: Rois, tmp_path: Path) -> None:
    config = config_of(road="dense")
    classifier = classifier_of(config)
    kept = keep_features(SYSTEM, config, rois.images, Workspace(tmp_path), classifier)
    served = grid_logits(classifier, torch.from_numpy(rois.images), config.patches, "float32")
    torch.testing.assert_close(logits_of(kept, classifier, 0), served, atol=2e-3, rtol=2e-3)


def test_the_dense_road_takes_another_stride_from_the_maps_that_it_kept(
    rois: Rois, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(road="dense")
    keep_features(SYSTEM, config, rois.images, Workspace(tmp_path))
    monkeypatch.setattr(Extractor, "maps", lambda *_: pytest.fail("another pass through the backbone"))
    finer = config.model_copy(update={"patches": config.patches.model_copy(update={"stride_px": 20})})
    assert len(keep_features(SYSTEM, finer, rois.images, Workspace(tmp_path)).corners) == 25


@pytest.mark.parametrize("road", ["exact", "dense"])
def test_what_only_votes_passes_once_and_turned_when_it_is_to_train(
    rois: Rois, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, road: str
) -> None:
    config = config_of(road=road)
    whole = keep_features(SYSTEM, config, rois.images, Workspace(tmp_path / "whole"))
    workspace, passes = Workspace(tmp_path), list[int]()
    passed = Extractor.exact if road == "exact" else Extractor.maps

    def counted(self: Extractor, image: Any, views: list[int]) -> Any:
        passes.extend(views)
        return passed(self, image, views)

    monkeypatch.setattr(Extractor, passed.__name__, counted)
    as_it_is = keep_features(SYSTEM, config, rois.images[:1], workspace, to_train=False)
    assert passes == [0]
    assert as_it_is.rows.shape == (1, 1)
    turned_too = keep_features(SYSTEM, config, rois.images[:1], workspace)
    assert passes == list(range(8))
    np.testing.assert_array_equal(as_it_is.kept[as_it_is.rows[0, 0]], whole.kept[whole.rows[0, 0]])
    for view in range(8):
        np.testing.assert_allclose(
            turned_too.kept[turned_too.rows[0, view]].astype(float),
            whole.kept[whole.rows[0, view]].astype(float),
            rtol=2e-3,
            atol=2e-3,
        )


def test_each_roi_is_computed_once_and_others_may_come_later(
    rois: Rois, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = config_of(), Workspace(tmp_path)
    computed, exact = list[tuple[bytes, int]](), Extractor.exact

    def counted(self: Extractor, image: Any, views: list[int]) -> Any:
        computed.extend((image.tobytes(), view) for view in views)
        return exact(self, image, views)

    monkeypatch.setattr(Extractor, "exact", counted)
    for images in (rois.images[:2], rois.images, rois.images[::-1]):
        keep_features(SYSTEM, config, images, workspace)
    assert sorted(computed) == sorted((image.tobytes(), view) for image in rois.images for view in range(8))
    shuffled = keep_features(SYSTEM, config, rois.images[::-1], workspace)
    plain = keep_features(SYSTEM, config, rois.images, workspace)
    np.testing.assert_array_equal(shuffled.kept[shuffled.rows[::-1]], plain.kept[plain.rows])


def test_studies_take_what_the_stage_kept(rois: Rois, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    keep_features(SYSTEM, config_of(), rois.images, workspace, versioned=True)
    monkeypatch.setattr(Extractor, "exact", lambda *_: pytest.fail("computed again"))
    keep_features(SYSTEM, config_of(), rois.images[:3], workspace)
    assert not workspace.feature_cache.exists()


def test_two_writers_at_once_leave_each_roi_once(rois: Rois, tmp_path: Path) -> None:
    alone = keep_features(SYSTEM, config_of(), rois.images, Workspace(tmp_path / "alone"))

    def write() -> None:
        keep_features(SYSTEM, config_of(), rois.images, Workspace(tmp_path / "both"))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    both = keep_features(SYSTEM, config_of(), rois.images, Workspace(tmp_path / "both"))
    np.testing.assert_array_equal(both.kept, alone.kept)


def test_the_stage_leaves_no_file_of_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = config_of().model_dump(by_alias=True) | {"systems": [SYSTEM, "compact-baseline"]}
    rois = disc_rois(6, 6)
    files = list[set[str]]()
    for changes in ({"stride_px": 40}, {"stride_px": 20}, {"stride_px": 40}):
        settings = values | {"patches": values["patches"] | changes}
        workspace_of(Path(), settings, rois, [*map(str, range(12))], [SPLITS[row % 3] for row in range(12)])
        stage.main()
        files.append({file.name for file in Path("data/features").iterdir() if file.suffix != ".lock"})
        assert sorted(Path(name).suffix for name in files[-1]) == [".f16", ".index", ".md"]
    assert files[0] == files[2] != files[1]


KEEP = """
import sys
from pathlib import Path
from mammo.core.files import Workspace
from mammo.systems.features import keep_features
from tests.disc_rois import disc_rois
from tests.systems.test_features import SYSTEM, config_of
say = lambda done, total: print(done, flush=True)
keep_features(SYSTEM, config_of(), disc_rois(20, 20).images, Workspace(Path(sys.argv[1])), on_step=say)
"""


@pytest.mark.slow
def test_a_killed_computation_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    for after in ("3", "11"):
        command = [sys.executable, "-c", KEEP, str(tmp_path / "killed")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stage:
            assert stage.stdout is not None
            assert after in (line.strip() for line in stage.stdout)
            os.kill(stage.pid, signal.SIGKILL)
    (index,) = (tmp_path / "killed" / ".cache" / "features").glob("*.index")
    with index.open("a") as lines:
        lines.write("half a line")
    images = disc_rois(20, 20).images
    killed, whole = (
        keep_features(SYSTEM, config_of(), images, Workspace(tmp_path / name)) for name in ("killed", "whole")
    )
    assert killed.kept.shape == whole.kept.shape == (40 * 8, 9, *whole.kept.shape[2:])
    np.testing.assert_array_equal(killed.kept[killed.rows], whole.kept[whole.rows])


def test_a_head_trained_on_kept_features_is_the_head_trained_on_the_pixels(rois: Rois, tmp_path: Path) -> None:
    config = config_of(STILL, patches_per_epoch=None, class_balance=False)
    table = grid_patches(rois.table, config.patches)
    kept = keep_features(SYSTEM, config, rois.images, Workspace(tmp_path), classifier_of(config))
    weights = []
    for data in (patch_data(rois, table, CPU), frozen_data(rois, table, kept, CPU)):
        classifier = classifier_of(config)
        history = fit(classifier, data, data, config.recipe, fit_settings(config))
        weights.append((classifier.head.state_dict(), history[-1].val_loss))
    (by_pixels, loss), (by_features, other_loss) = weights
    assert loss == pytest.approx(other_loss, abs=5e-3)
    for name, value in by_pixels.items():
        torch.testing.assert_close(by_features[name], value, atol=5e-3, rtol=5e-3)


def test_a_free_rotation_is_kept_as_draws_of_which_the_first_is_the_patch_itself(rois: Rois, tmp_path: Path) -> None:
    config = config_of(section(AugmentConfig))  # the paper's
    classifier = classifier_of(config)
    kept = keep_features(SYSTEM, config, rois.images, Workspace(tmp_path), classifier)
    assert kept.n_views == 1 + features.N_DRAWS
    still = keep_features(SYSTEM, config_of(STILL), rois.images, Workspace(tmp_path), classifier)
    np.testing.assert_array_equal(kept.kept[kept.rows[:, 0]], still.kept[still.rows[:, 0]])
    views = [kept.kept[kept.rows[:, view]].tobytes() for view in range(9)]
    assert len(set(views)) == 9


def test_the_dense_road_keeps_no_free_rotation(rois: Rois, tmp_path: Path) -> None:
    config = config_of(section(AugmentConfig), road="dense")
    with pytest.raises(ConfigError, match="quarter turns and mirror images only"):
        keep_features(SYSTEM, config, rois.images, Workspace(tmp_path))


def test_more_than_the_disk_should_hold_is_refused(rois: Rois, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"train\.features kept would take .* raise patches\.stride_px"):
        keep_features(SYSTEM, config_of(), rois.images, Workspace(tmp_path))
    assert not Workspace(tmp_path).feature_cache.exists()


def test_features_are_kept_of_frozen_backbones_alone() -> None:
    with pytest.raises(ConfigError, match=r"train\.features must be fresh where the backbone learns"):
        config_of(backbone_lr=0.01)


@pytest.mark.parametrize("system", ["compact-baseline", "compact-model1", "compact-model2"])
def test_a_network_trains_on_the_dense_road_in_bfloat16(rois: Rois, system: str) -> None:
    config = config_of(road="dense", backbone_lr=0.01, precision="bfloat16", features="fresh")
    data = patch_data(rois, grid_patches(rois.table, config.patches), CPU)
    classifier = classifier_of(config, system)
    before = {name: value.clone() for name, value in classifier.backbone.state_dict().items()}
    history = fit(classifier, data, data, config.recipe, fit_settings(config))
    assert np.isfinite([record.train_loss for record in history]).all()
    moved = [not torch.equal(value, before[name]) for name, value in classifier.backbone.state_dict().items()]
    assert all(moved)
