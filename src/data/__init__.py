"""Questions: data sets, prompts, marking and splits.

    from src.data import MMLUDataset
    MMLUDataset("test", category="stem")[0].prompt

Public names load on first use, so that importing one data set does not import the others' libraries.
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.data.custom import QADataset
    from src.data.example import Example
    from src.data.given import AnsweredDataset
    from src.data.gsm8k import GSM8KDataset
    from src.data.mmlu import MMLUDataset
    from src.data.quickstart import QuickstartDataset

__all__ = ["AnsweredDataset", "Example", "GSM8KDataset", "MMLUDataset", "QADataset", "QuickstartDataset"]

__getattr__ = lazy_exports(
    __name__,
    {
        "AnsweredDataset": "given",
        "Example": "example",
        "GSM8KDataset": "gsm8k",
        "MMLUDataset": "mmlu",
        "QADataset": "custom",
        "QuickstartDataset": "quickstart",
    },
)
