"""Where the real data sets are: a folder named by `data.root` or the environment, and clear words when they are not."""

from __future__ import annotations

import os
from pathlib import Path

from opu_dfa.config import settings
from opu_dfa.errors import DataError

VARIABLE = "OPU_DFA_DATA"


@settings
class DataSettings:
    """root: the folder of data sets; None takes the environment's OPU_DFA_DATA, else ~/.cache/opu-dfa.
    download: fetch what is missing there, where the set has a public source."""

    root: str | None
    download: bool

    @property
    def folder(self) -> Path:
        """The folder of data sets, which need not exist yet."""
        chosen = self.root or os.environ.get(VARIABLE) or "~/.cache/opu-dfa"
        return Path(chosen).expanduser().absolute()

    def find(self, name: str, remedy: str) -> Path:
        """The file or folder `name` of the data folder.

        Args:
            name: relative path; remedy: the sentence that says how to get it.

        Raises:
            DataError: it is not there; names it, the folder looked in, and the remedy.
        """
        path = self.folder / name
        if not path.exists():
            raise DataError(
                f"there is no {name} in the data folder {self.folder} (data.root=FOLDER or {VARIABLE} names another). "
                f"{remedy}"
            )
        return path
