"""Every command of docs/studies.md and docs/tuning.md, typed to the letter in a clone of a small project."""

import pytest

from tests.docker.processes import postgresql
from tests.pipeline.clones import Reader, commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000), pytest.mark.usefixtures("hears_interrupts")]


def test_studies_are_made_by_their_commands_and_not_again_by_dvc(reader: Reader) -> None:
    *made, dry, all_of_them = commands("docs/studies.md")
    reader.follow(made)
    assert "0 fits to do" in reader.type(dry)
    said = reader.type(all_of_them)
    assert "Stage 'pipelines/studies/dvc.yaml:ledger' didn't change, skipping" in said
    assert (reader.clone.reports / "tune" / "nested.md").is_file()


def test_tuning_is_shown_while_it_runs_and_goes_on_in_a_database(reader: Reader) -> None:
    demonstration, tune, how_long, dashboard, nested, *elsewhere = commands("docs/tuning.md")
    reader.follow([demonstration, tune])
    assert reader.type(how_long).startswith("0 trials to do")
    with reader.keep_open(dashboard):
        pass
    reader.type(nested)
    with postgresql("tuner", "secret", "studies") as server:
        address = f"tuner:secret@127.0.0.1:{server.port}/studies"
        there = Reader(reader.clone, reader.home, {"USER:PASSWORD@HOST/DATABASE": address})
        there.follow(elsewhere)
