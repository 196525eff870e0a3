"""The potentials of a run, kept step by step so that new points can follow it later."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from particles.files import UNREADABLE, first_line, replacing, settle
from particles.flows.recording import Tape


class Recording(Mapping[int, Tape]):
    """The tapes of a run by the step that each leads to, in files ``potentials/00000012.pt`` of its folder.

    Arguments:
        folder: The run folder.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder) / "potentials"
        self.loose: list[Path] = []

    def path(self, k: int) -> Path:
        """The file of the step that leads to step ``k``."""
        return self.folder / f"{k:08d}.pt"

    def __iter__(self) -> Iterator[int]:
        names = [path.name for path in self.folder.glob("*.pt")]
        return iter(sorted(int(name[:-3]) for name in names if re.fullmatch(r"[0-9]{8,}\.pt", name)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, k: int) -> Tape:
        """The tape that leads to step ``k``.

        Raises:
            KeyError: If there is none.
            ValueError: If it cannot be read.
        """
        path = self.path(k)
        if not path.exists():
            raise KeyError(k)
        try:
            tape = torch.load(path, weights_only=True, map_location="cpu")
            if tape.keys() != {"potentials", "numbers"} or not all(isinstance(part, list) for part in tape.values()):
                raise ValueError("it is not a recorded step")
        except UNREADABLE as error:
            raise ValueError(f"{path} cannot be read ({first_line(error)}); repeat the run") from None
        return dict(tape)

    def write(self, k: int, tape: Tape) -> None:
        """Keeps the tape that leads to step ``k``, in place of an earlier one; to be followed by ``settle``."""
        self.folder.mkdir(exist_ok=True)
        with replacing(self.path(k), lasting=False) as draft, open(draft, "wb") as file:
            torch.save(tape, file)  # given a name, it would write that into the file
        self.loose.append(self.path(k))

    def settle(self) -> None:
        """Waits until all that was written is on its disk, which takes too long to do after every step."""
        for path in self.loose:
            settle(path)
        self.loose.clear()

    def clear(self) -> None:
        """Removes all tapes, and nothing else."""
        for k in self:
            self.path(k).unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
