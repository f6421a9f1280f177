"""The YAML of a run: strict, one sentence per field, and errors that name key, value and what is allowed.

`schema` says what there is, `reading` turns hostile text into plain values, `explaining` words the errors,
`loading` puts the three together.
"""

from typing import TYPE_CHECKING

from src.lazy import lazy_exports

if TYPE_CHECKING:
    from src.config.loading import load_config, parse_override
    from src.config.schema import Config, DataConfig, EvaluationConfig

__all__ = ["Config", "DataConfig", "EvaluationConfig", "load_config", "parse_override"]

__getattr__ = lazy_exports(
    __name__,
    {
        "Config": "schema",
        "DataConfig": "schema",
        "EvaluationConfig": "schema",
        "load_config": "loading",
        "parse_override": "loading",
    },
)
