"""Wherever a system that starts from HED's weights is shown, it says so."""

import pytest
from safetensors.torch import save_file

from mammo.core.choice import chosen
from mammo.core.config import Config
from mammo.core.files import Workspace, sha256_of, write_json
from mammo.models.backbones import full_network
from mammo.models.bundle import load_bundle
from mammo.report.evaluation_files import write_results
from mammo.report.page import gather, model_card, write_page
from mammo.systems.assess import assess
from mammo.track.record import ensure_run, train_recorded
from mammo.track.store import connect

SYSTEM = "vgg16-baseline"


@pytest.mark.slow
def test_run_bundle_results_page_and_card_of_vgg16_name_hed(
    prepared: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, config = prepared
    monkeypatch.chdir(space.root)
    space.hed.parent.mkdir(parents=True)
    network = full_network("vgg16").state_dict()
    save_file({name: value for name, value in network.items() if name.startswith("features.")}, space.hed)
    monkeypatch.setattr("mammo.models.build.HED_SHA256", sha256_of(space.hed))
    monkeypatch.setattr("mammo.report.page.pick_examples", lambda *_: [])
    sections = {
        "model": config.model.model_copy(update={"weights": "hed"}),
        "train": config.train.model_copy(update={"epochs": 1, "patches_per_epoch": 8, "backbone_lr": 0.0}),
    }
    config = config.model_copy(update={"systems": [SYSTEM], **sections})

    train_recorded(space, config, SYSTEM)
    run = connect(space).get_run(ensure_run(space, config, SYSTEM))
    assert (run.info.run_name, run.data.tags["mammo.weights"]) == ("vgg16 (HED)-baseline", "hed")
    assert run.data.tags["mammo.system"] == SYSTEM
    space.hed.unlink()  # a bundle has weights of its own
    bundle = load_bundle(space.bundle(SYSTEM))
    assert bundle.provenance["weights"] == "hed"
    assert bundle.network.architecture.preprocessing == "samplewise_center"

    write_results(space, assess(space, config))
    write_json(space.reports / "champion.json", chosen(space, config))
    inputs = gather(space, config)
    write_page(inputs)
    card, page = model_card(inputs), (space.reports / "index.html").read_text()
    assert "# Model card: mammo-roi (vgg16 (HED)-baseline)" in card
    assert '<span class="system">vgg16 (HED)-baseline</span>' in page
    for text in (card, page):
        assert "8 test ROIs (vgg16 (HED): ImageNet's weights, fine-tuned for edges)" in text.replace("&#39;", "'")
