"""What the paper reports, as counts, so that its numbers can stand beside ours with intervals.

Source: Yu, Pang, Xu, Liang, "Mammographic image classification with deep fusion learning", Scientific
Reports 10, 14361 (2020), doi 10.1038/s41598-020-71431-x. ROI level, 64 test ROIs: 41 Normal, 23 Tumor. The
paper gives rates; on 23 and 41 ROIs only one set of counts rounds to them.
"""

from dataclasses import dataclass
from typing import Final

from mammo.evaluation.intervals import Estimate, wilson
from mammo.evaluation.metrics import PROPORTIONS, Confusion

DOI: Final = "10.1038/s41598-020-71431-x"
N_TEST_ROIS: Final = 64


@dataclass(frozen=True)
class PaperResult:
    """One system of the paper.

    Attributes:
        system: the paper's name for it.
        confusion: its counts on the 64 test ROIs; None where the numbers are not at hand.
    """

    system: str
    confusion: Confusion | None

    def estimates(self, confidence: float = 0.95) -> dict[str, Estimate]:
        """The proportions with Wilson intervals; empty where the numbers are not at hand."""
        if self.confusion is None:
            return {}
        return {name: wilson(*self.confusion.trials(name), confidence) for name in PROPORTIONS}


PAPER_RESULTS: Final = (
    PaperResult("Model1", Confusion(tp=21, fn=2, fp=5, tn=36)),
    PaperResult("Model2", Confusion(tp=22, fn=1, fp=7, tn=34)),
    PaperResult("VGG16", None),
    PaperResult("VGG19", None),
    PaperResult("DenseNet", None),
    PaperResult("ResNet50", None),
    PaperResult("MobileNet", None),
)
"""The paper's systems. Its AUC is left out: it is computed from decisions, not from scores."""
