"""Promotion and rollback of real versions, from the store alone."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from mammo.core.config import Config
from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import Workspace
from mammo.models.bundle import load_bundle, save_bundle
from mammo.promotion import moves
from mammo.serve.log import PredictionLog
from mammo.track import registry
from mammo.track.check import BUNDLE_TAG, EVALUATION_TAG, lacking
from mammo.track.history import history_of
from mammo.track.record import ensure_run, fill_store
from mammo.track.registry import register
from mammo.track.store import connect
from tests.promotion.evidence import write_beside_results
from tests.promotion.test_shadow import answer
from tests.tracked.conftest import Mammo
from tests.tracked.registered import NAME, crown

Place = tuple[Workspace, Config]
PIXELS = np.zeros((120, 120), np.uint8)


@pytest.fixture(scope="module")
def trained(finished: Place, store_of: Callable[[Workspace], None], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Three versions: the champion, the challenger, and the champion's weights with another threshold.

    What was found of the first two on the test part is replaced by evidence that passes the gates.
    """
    space = Workspace(tmp_path_factory.mktemp("trained") / "space")
    shutil.copytree(finished[0].root, space.root, ignore=shutil.ignore_patterns("mlruns", "*.run.json"))
    store_of(space)
    params = yaml.safe_load(space.params.read_text())
    space.params.write_text(yaml.safe_dump(params | {"promote": params["promote"] | {"latency_s": 60.0}}))
    config = Config.load(space.params)
    write_beside_results(space.reports, *config.systems)
    first = fill_store(space, config)
    (other,) = set(config.systems) - {first.system}
    register(space, NAME, ensure_run(space, config, other), space.bundle(other))
    bundle, folder = load_bundle(space.bundle(first.system)), space.root / "other-threshold"
    save_bundle(replace(bundle, vote=bundle.vote.model_copy(update={"share_threshold": 0.123})), folder)
    register(space, NAME, first.run_id, folder)
    return space, config


@pytest.fixture
def place(trained: Place, tmp_path: Path) -> Place:
    """A copy of the store and the settings, and nothing else: what any client of the same MLflow has."""
    (tmp_path / "mlruns").mkdir()
    shutil.copy(trained[0].mlruns / "mlflow.db", tmp_path / "mlruns")
    shutil.copy(trained[0].params, tmp_path)
    return Workspace(tmp_path), trained[1]


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every version counts as loaded and checked, which takes seconds: of the moves alone is asked."""
    monkeypatch.setattr(moves, "checked", lambda *_: 0.01)


def promoted(place: Place, number: str, force: bool = False, reason: str = "") -> registry.Version:
    space, config = place
    return moves.promote(space, config, moves.judge(space, config, number), force=force, reason=reason)


def crowned(place: Place, *numbers: str) -> None:
    """Make versions champion one after the other, without the gates, which load each of them."""
    client = connect(place[0])
    for number in numbers:
        crown(place[0], client, number, registry.champion(place[0], NAME).number)


def kinds(place: Place) -> list[str]:
    return [entry.kind for entry in history_of(place[0], NAME, verify=True).entries]


def test_a_version_whose_gates_hold_becomes_champion_and_its_gates_are_remembered(place: Place) -> None:
    space, _ = place
    version = promoted(place, "2", reason="better")
    assert (version.aliases, version.reason) == (("champion",), "champion was version 1")
    entry = history_of(space, NAME, verify=True).entries[-1]
    assert (entry.kind, entry.moves["champion"], entry.reason) == ("promote", ("1", "2"), "better")
    assert entry.gates is not None
    assert entry.gates["recall"] == {
        "value": "19 of 19",
        "bound": "at least 0.600 of the Tumor ROIs",
        "passed": True,
    }
    assert len(connect(space).get_registered_model(NAME).tags[f"mammo.history.{entry.number:06}"]) < 4000
    assert promoted(place, "2").reason == "version 2 is champion already"


@pytest.mark.slow
def test_a_client_of_a_server_promotes_with_nothing_but_settings_and_its_address(
    trained: Place, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, config = Workspace(tmp_path / "maker"), trained[1]
    shutil.copytree(trained[0].root, maker.root, ignore=shutil.ignore_patterns("mlruns", "*.run.json"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    first = fill_store(maker, config)
    (other,) = set(config.systems) - {first.system}
    register(maker, NAME, ensure_run(maker, config, other), maker.bundle(other))
    (client := tmp_path / "client").mkdir()
    shutil.copy(maker.params, client / "params.yaml")
    place = Workspace(client), config
    assert promoted(place, "2").aliases == ("champion",)
    assert moves.rollback(place[0], NAME).number == "1"
    assert kinds(place) == ["register", "register", "promote", "rollback"]
    connect(place[0]).delete_registered_model(NAME)


@pytest.mark.usefixtures("trusted")
def test_evidence_about_another_bundle_is_none(place: Place) -> None:
    with pytest.raises(TrackingError, match=r"(?s)version 3 stays out.*recall.*speaks of another bundle"):
        promoted(place, "3")
    assert kinds(place) == ["register", "register", "register"]


@pytest.mark.usefixtures("trusted")
def test_evidence_is_that_of_the_newest_run_of_a_bundle_that_was_tested(trained: Place, place: Place) -> None:
    """`dvc repro` in another clone trains the same bits again, on data that break an expectation."""
    space, config = place
    client, version = connect(space), registry.version_of(connect(space), NAME, "2")
    experiment = client.get_run(version.run_id).info.experiment_id
    again = client.create_run(experiment, tags={BUNDLE_TAG: version.bundle_sha256}).info.run_id
    assert moves.judge(space, config, "2").failed == []
    for name in ("evaluate", "audit", "expectations"):
        client.log_artifacts(again, str(trained[0].reports / name), name)
    rules = {"expectations": {"roi_id_unique": {"severity": "critical", "kept": False}}}
    client.log_dict(again, rules, "expectations/rois.json")
    client.set_tag(again, EVALUATION_TAG, "set after all of them")
    (gate,) = moves.judge(space, config, "2").failed
    assert (gate.name, gate.value) == ("expectations", "roi_id_unique")


@pytest.mark.usefixtures("trusted")
def test_shadowed_answers_count_where_both_versions_are_of_this_store(place: Place, mammo: Mammo) -> None:
    space, _ = place
    params = yaml.safe_load(space.params.read_text())
    space.params.write_text(yaml.safe_dump(params | {"promote": params["promote"] | {"shadow_agreement": 0.7}}))
    config = Config.load_own(space.params)
    weights = [registry.version_of(connect(space), NAME, number).weights_sha256[:8] for number in "12"]

    def found() -> tuple[str, bool]:
        gate = moves.judge(space, config, "2").gates[-1]
        return gate.value, gate.passed

    log = PredictionLog(space.predictions)
    for roi in range(10):
        other_store = answer(roi, "1", 0.2), answer(roi, "2", 0.2)
        log.write(other_store[0], PIXELS, "rois", 0, other_store[1])
    assert found() == ("no answer of both in predictions/ here: see serve.shadow_share", False)
    for roi in range(10):
        own = [answer(roi, number, 0.2, of) for number, of in zip("12", weights, strict=True)]
        log.write(own[0], PIXELS, "rois", 0, own[1])
    log.close()
    assert found() == ("1.000 (95% interval 0.722 to 1.000; 10 ROIs)", True)
    (path,) = space.predictions.iterdir()
    path.write_text("damaged\n" + path.read_text())
    assert "line 1 must be an answer as JSON" in found()[0]
    code, said, _ = mammo("promote", "2", "--force", "--reason", "a test", "--workspace", str(space.root))
    assert (code, "champion was version 1" in said) == (0, True)


@pytest.mark.usefixtures("trusted")
def test_force_needs_a_reason_and_is_written_down_with_what_failed(place: Place) -> None:
    with pytest.raises(TrackingError, match="--force: needs a reason"):
        promoted(place, "3", force=True, reason=" ")
    assert promoted(place, "3", force=True, reason="the clinic asks for it").aliases == ("champion",)
    entry = history_of(place[0], NAME, verify=True).entries[-1]
    assert (entry.kind, entry.reason) == ("forced", "the clinic asks for it")
    assert entry.gates is not None
    assert not entry.gates["recall"]["passed"]


@pytest.mark.usefixtures("trusted")
def test_a_champion_that_changed_since_the_gates_were_judged_is_not_replaced(place: Place) -> None:
    space, config = place
    verdict = moves.judge(space, config, "2")
    promoted(place, "3", force=True, reason="first")
    with pytest.raises(TrackingError, match=r"judged against champion 1, but version 3 has become champion"):
        moves.promote(space, config, verdict)
    assert registry.champion(space, NAME).number == "3"


@pytest.mark.usefixtures("trusted")
def test_rollback_goes_down_the_stack_and_says_where_history_begins(place: Place) -> None:
    space, _ = place
    crowned(place, "2", "3")
    found = [moves.rollback(space, NAME).number for _ in range(2)]
    assert found == ["2", "1"]
    with pytest.raises(TrackingError, match="the history holds version 1 alone"):
        moves.rollback(space, NAME)
    crowned(place, "3")
    with pytest.raises(TrackingError, match=r"must take 1 to 1 steps, got 2"):
        moves.rollback(space, NAME, 2)
    assert moves.rollback(space, NAME).aliases == ("champion",)
    assert kinds(place)[-4:] == ["rollback", "rollback", "promote", "rollback"]


@pytest.mark.usefixtures("trusted")
def test_rollback_passes_a_deleted_version_only_when_told_to(place: Place) -> None:
    space, _ = place
    crowned(place, "2", "3")
    connect(space).delete_model_version(NAME, "2")
    with pytest.raises(TrackingError, match=r"version 2, 1 back, has been deleted; .*`mammo rollback 2`"):
        moves.rollback(space, NAME)
    assert moves.rollback(space, NAME, 2).number == "1"


@pytest.mark.usefixtures("trusted")
def test_after_the_alias_was_deleted_by_hand_rollback_gives_it_back(place: Place) -> None:
    space, _ = place
    crowned(place, "2")
    connect(space).delete_registered_model_alias(NAME, "champion")
    assert moves.rollback(space, NAME).number == "2"
    assert moves.rollback(space, NAME).number == "1"


def weights_of(space: Workspace, number: str) -> Path:
    client = connect(space)
    model = client.get_model_version(NAME, number).source.removeprefix("models:/")
    folder = Path(client.get_logged_model(model).artifact_location.removeprefix("file://"))
    return folder / "artifacts" / "model.safetensors"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def randomised(path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = load_file(path)
    drawn = {name: rng.normal(size=value.shape).astype(value.dtype) for name, value in tensors.items()}
    save_file(drawn, path)


@pytest.mark.parametrize("damage", [cut, randomised])
def test_damaged_weights_are_neither_promoted_nor_forced_nor_rolled_back_to(
    place: Place, damage: Callable[[Path], None]
) -> None:
    space, _ = place
    path = weights_of(space, "2")
    before = path.read_bytes()
    path.chmod(0o644)
    damage(path)
    try:
        with pytest.raises(TrackingError, match=r"(?s)cannot vote is not forced.*loads and votes"):
            promoted(place, "2", force=True, reason="a test")
        connect(space).set_registered_model_alias(NAME, "champion", "2")
        crowned(place, "3")
        with pytest.raises(MammoError, match=r"version 2|safetensors"):
            moves.rollback(space, NAME)
        assert registry.champion(space, NAME).number == "3"
    finally:
        path.write_bytes(before)


def test_evidence_added_later_is_lacking_in_an_evaluated_run(trained: Place, tmp_path: Path) -> None:
    space = Workspace(tmp_path / "copy")
    shutil.copytree(trained[0].root, space.root)
    assert lacking(space) == []
    (space.reports / "audit" / "flagged_rois.csv").write_text("roi_id,split,tissue_in,patient_in\n")
    assert [one[:8] for one in lacking(space) or []] == ["a run of", "a run of"]


def test_the_commands_show_the_table_first_and_end_with_2_where_they_refuse(place: Place, mammo: Mammo) -> None:
    def run(*words: str) -> tuple[int, str]:
        code, out, err = mammo(*words, "--workspace", str(place[0].root))
        return code, " ".join((out + err).split())

    code, said = run("promote", "3", "--dry-run")
    assert code == 0
    assert "Version 3 against champion 1" in said
    assert "Not every gate holds." in said
    code, said = run("promote", "3")
    assert code == 2
    assert said.index("against champion 1") < said.index("version 3 stays out")
    code, said = run("promote", "nine")
    assert (code, "must be one of [1, 2, 3], got 'nine'" in said) == (2, True)
    code, said = run("promote", "3", "--force", "--reason", "a test")
    assert (code, "champion was version 1" in said) == (0, True)
    code, said = run("rollback")
    assert (code, "rolled back from version 3" in said) == (0, True)
    code, said = run("promote", "02", "--reason", "a good one")
    assert (code, "champion was version 1" in said) == (0, True)
    code, said = run("rollback")
    assert (code, "rolled back from version 2" in said) == (0, True)
    code, said = run("history", "--verify")
    assert code == 0
    assert "the chain is whole" in said
    assert "champion 1 → 2" in said
    code, said = run("history", "--json")
    assert said.count('"kind":') == 7
    connect(place[0]).set_registered_model_alias(NAME, "champion", "3")
    code, said = run("history", "--verify")
    assert code == 2
    assert "champion is version 3 where entry 7 leaves 1" in said
    assert run("history")[1].count("by hand") == 1
    assert run("history", "--verify")[0] == 0
