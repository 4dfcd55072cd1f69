"""Configuration: the defaults of all settings, yaml files and overrides merged into one tree, checked and frozen."""

from .arguments import load_arguments
from .compare import changes_between_ranks, changes_refused_on_resume, effective_settings, recipe_changes
from .load import Dialect, load_config
from .reading import flatten_strictly, read_settings, written_settings
from .schema import all_settings, default_config, having, hyper_parameters, solver_arguments, stream_options

__all__ = [
    "Dialect",
    "all_settings",
    "changes_between_ranks",
    "changes_refused_on_resume",
    "default_config",
    "effective_settings",
    "flatten_strictly",
    "having",
    "hyper_parameters",
    "load_arguments",
    "load_config",
    "read_settings",
    "recipe_changes",
    "solver_arguments",
    "stream_options",
    "written_settings",
]
