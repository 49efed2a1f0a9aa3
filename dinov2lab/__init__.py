"""dinov2lab: experiments around a DINOv2 training core.

For notebooks: `load_study`, `load_recipe`, `run`, `results`, `features`, `load_backbone`, as docs/notebook.py uses them.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dinov2lab.api import features, load_backbone, load_recipe, load_study, results, run

__all__ = ["__version__", "features", "load_backbone", "load_recipe", "load_study", "results", "run"]

if not TYPE_CHECKING:

    def __getattr__(name):
        """The calls of api.py, which wants torch and pandas: imported when the first of them is asked for."""
        if name in __all__:
            from dinov2lab import api

            return getattr(api, name)
        raise AttributeError(f"module 'dinov2lab' has no attribute {name!r}")
