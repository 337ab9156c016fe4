"""What the pictures of a study show, and that their texts can be read."""

import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.core.tune_config import Choices
from mammo.tuning.importance import importances
from mammo.tuning.material import read_trial_rois
from mammo.tuning.plots import write_plots
from mammo.tuning.space import distributions
from mammo.tuning.storage import open_storage
from mammo.tuning.study import OpenStudy, make_study
from tests.report.drawn_figures import Gallery, catch_figures
from tests.tuning.conftest import make_workspace

PROJECT_SPACE = Config.load(Path(__file__).parents[2] / "params.yaml").tune


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Gallery:
    return catch_figures(monkeypatch)


def drawn_trial(index: int, drawn: optuna.Trial, *, pruned: bool) -> FrozenTrial:
    """A trial that drew from the project's own space; pruned ones reported one epoch."""
    value = 0.8 + 0.05 * float(np.log10(drawn.params["head_lr"]) + 3)
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=None if pruned else value,
        params=drawn.params,
        distributions=drawn.distributions,
        intermediate_values={0: value},
        user_attrs={"index": index, "fold_values": [] if pruned else [value]},
    )


@pytest.fixture
def studied(tmp_path: Path) -> OpenStudy:
    """Twelve trials of the project's own search space, every third pruned."""
    settings = PROJECT_SPACE.model_dump(mode="json")["space"]
    space, config = make_workspace(tmp_path / "space", space=settings)
    material = read_trial_rois(space, config)
    opened = make_study(space, config, open_storage(space, None, None), material, fresh=False)
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for index in range(12):
        drawn = random.ask(distributions(config.tune))
        opened.study.add_trial(drawn_trial(index, drawn, pruned=index % 3 == 2))
    return opened


def test_every_picture_is_drawn_and_its_texts_do_not_meet(
    studied: OpenStudy, gallery: Gallery, tmp_path: Path
) -> None:
    write_plots(studied, importances(studied.ended), tmp_path)
    names = ["history", "slice", "importance", "contour", "parallel_coordinate"]
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == sorted(names)
    ours = Gallery(gallery[:4])
    for number in range(4):
        one = Gallery([ours[number]])
        assert one.overlaps() == []
        assert one.outside() == []
        assert "Research software, no medical device." in one.texts()
    for drawn in gallery[4:]:
        assert any("PHANTOM" in text and "no medical device" in text for text in Gallery([drawn]).texts())


def test_the_history_shows_every_trial_in_the_order_of_the_indices(
    studied: OpenStudy, gallery: Gallery, tmp_path: Path
) -> None:
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for index in (13, 12, 14):  # trial 12 was done again after 13 had ended; 14 is pruned
        drawn = random.ask(distributions(studied.config.tune))
        studied.study.add_trial(drawn_trial(index, drawn, pruned=index == 14))
    write_plots(studied, {}, tmp_path)
    (axes,) = gallery[0].axes
    left, right = axes.get_xlim()
    shown = np.concatenate([np.asarray(marks.get_offsets())[:, 0] for marks in axes.collections])
    assert sorted(shown) == list(range(15))
    assert left < 0
    assert right > 14
    (line,) = axes.lines
    places, best = (np.asarray(values) for values in line.get_data())
    values = {t.user_attrs["index"]: t.value for t in studied.ended if t.value is not None}
    assert places.tolist() == [*sorted(values), 14]
    assert best.tolist() == [max(values[i] for i in values if i <= place) for place in places]


def test_slices_show_the_whole_searched_range(studied: OpenStudy, gallery: Gallery, tmp_path: Path) -> None:
    write_plots(studied, {}, tmp_path)
    panels = {axes.get_title(loc="left"): axes for axes in gallery[1].axes if axes.get_visible()}
    assert list(panels) == list(PROJECT_SPACE.space)
    for name in ("head_lr", "size_px", "augment_strength"):
        parameter = PROJECT_SPACE.space[name]
        left, right = panels[name].get_xlim()
        assert left < parameter.low < parameter.high < right  # type: ignore[union-attr]
    assert [label.get_text() for label in panels["fusion"].get_xticklabels()] == [
        "baseline",
        "model1",
        "model2",
    ]


def test_without_differing_values_there_is_a_history_and_slices_alone(
    tmp_path: Path, workspace: tuple[Workspace, Config]
) -> None:
    space, config = workspace
    material = read_trial_rois(space, config)
    opened = make_study(space, config, open_storage(space, None, None), material, fresh=False)
    drawn = optuna.create_study().ask(distributions(config.tune))
    opened.study.add_trial(drawn_trial(0, drawn, pruned=False))
    folder = tmp_path / "plots"
    folder.mkdir()
    write_plots(opened, importances(opened.ended), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["history.png", "slice.png"]


def test_a_parallel_line_stands_where_a_value_lies_in_its_range_on_the_ranges_own_scale(
    studied: OpenStudy, gallery: Gallery, tmp_path: Path
) -> None:
    write_plots(studied, {}, tmp_path)
    space = studied.config.tune.space
    place = list(space).index("head_lr")
    rate = space["head_lr"]
    assert not isinstance(rate, Choices)
    assert rate.log
    best = max((t for t in studied.ended if t.value is not None), key=lambda trial: trial.value or 0)
    (axes,) = gallery[2].axes
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    to_value = [line for line in lines if len(line) == len(space) + 1]
    pruned = [line for line in lines if len(line) == len(space)]
    assert (len(to_value), len(pruned)) == (8, 4)
    assert all(0 <= height <= 1 for line in [*to_value, *pruned] for height in line)
    # The last line drawn is the best trial's, and ends at the top; a tenfold of low is a decade up.
    assert to_value[-1][-1] == 1
    decades = np.log10(best.params["head_lr"] / rate.low) / np.log10(rate.high / rate.low)
    assert to_value[-1][place] == pytest.approx(decades)


def test_a_range_of_one_value_is_drawn_without_a_warning(tmp_path: Path, gallery: Gallery) -> None:
    one = {
        "stride_px": {"type": "int", "low": 12, "high": 12},
        "weight_decay": {"type": "float", "low": 0.01, "high": 0.01, "log": True},
        "head_lr": {"type": "float", "low": 0.0001, "high": 0.01, "log": True},
    }
    space, config = make_workspace(tmp_path / "space", space=one)
    material = read_trial_rois(space, config)
    opened = make_study(space, config, open_storage(space, None, None), material, fresh=False)
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for index in range(4):
        opened.study.add_trial(drawn_trial(index, random.ask(distributions(config.tune)), pruned=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_plots(opened, {}, tmp_path)
    assert len(gallery) == 3
