"""What must be found even where another `projects` hides this project's.

mmlearn's repository has a package `projects` with a `bioscan_clip` of its own. Where a clone of it
is on Python's path, the names of this project lead there. Hydra finds plugins by another name.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class BioscanClipSearchPath(SearchPathPlugin):
    """Lets `mmlearn_run` find this project's experiments; other programs are left alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add this project's configs after mmlearn's own."""
        if not any(entry.path == "pkg://mmlearn.conf" for entry in search_path.get_path()):
            return
        if sentence := hidden():
            print(f"Warning: {sentence}", file=sys.stderr)
        else:
            search_path.append("bioscan-clip", "pkg://projects.bioscan_clip.configs")


def hidden() -> str | None:
    """Say what hides this project and what to do, if anything does."""
    projects = find_spec("projects")
    ours = find_spec("projects.bioscan_clip") if projects else None
    if any(Path(folder, "doctor.py").is_file() for folder in _folders(ours)):
        return None
    where = " and ".join(_folders(projects)) or "Nothing"
    return (
        f"{where} is imported as `projects`, which hides the project of `bioscan-clip`. If it is "
        "a clone of mmlearn's, take that off Python's path: replace its editable install by "
        "`pip install 'mmlearn>=0.1.0,<0.2'`, and leave it out of PYTHONPATH."
    )


def _folders(spec: ModuleSpec | None) -> list[str]:
    return list(spec.submodule_search_locations or ()) if spec else []


def main() -> None:
    """Run `bioscan-clip`, or say why it cannot be found."""
    if sentence := hidden():
        sys.exit(f"Error: {sentence}")
    from projects.bioscan_clip.cli import app

    app()
