"""What `tests/test_parallel.py` has torchrun run: one tiny fit shared by the processes; each leaves its own result."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from mammo.systems.fit import fit
from mammo.systems.parallel import joined
from tests.disc_rois import disc_rois
from tests.tiny_fits import CPU, SETTINGS, data_of, new_classifier, recipe, weights_of


def main() -> None:
    """Arguments: a JSON object with fusion, n_processes, recipe; the folder for results."""
    torch.set_num_threads(1)
    asked, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    classifier = new_classifier(fusion=asked["fusion"])
    with joined(asked["n_processes"], CPU) as team:
        history = fit(
            classifier,
            data_of(disc_rois(6, 5)),
            data_of(disc_rois(4, 3, seed=1)),
            recipe(**asked["recipe"]),
            SETTINGS,
            team=team,
        )
        weights = {name: value.contiguous() for name, value in weights_of(classifier).items()}
        save_file(weights, folder / f"{team.rank}.safetensors")
        (folder / f"{team.rank}.json").write_text(json.dumps([asdict(record) for record in history]))


if __name__ == "__main__":
    main()
