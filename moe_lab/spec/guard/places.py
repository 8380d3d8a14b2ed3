# SPDX-License-Identifier: Apache-2.0
"""Where runs go: the profiles folder, names of runs, and the claim that lets one command at a time make a run."""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import scratch
from moe_lab.spec.guard.entry import below, decode_json, one_line, plain_name, read_bytes

MANIFEST = "run.json"
_BUILDING = ".building"
# Words in the name of a GPU that do not set it apart from others.
_NOISE = re.compile(r"nvidia|geforce|amd|instinct|tesla|quadro|graphics|radeon|pcie|sxm[45]?|nvl|\d+gb|hbm\w*")


def profiles_root() -> Path:
    """Return the folder from which runs are read and to which they are written.

    That is $MOE_LAB_PROFILES, else the first that exists of ./profiles, ../profiles and, inside a checkout, the
    profiles of a folder above, up to its top; else ./profiles, to be made. Where moe_lab is installed does not matter.
    """
    named = os.environ.get("MOE_LAB_PROFILES")
    if named:
        return Path(named)
    here = Path.cwd()
    top = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    above = [f for f in here.parents if top and f.is_relative_to(top)]
    # ../profiles even without a checkout: notebooks run in the folder notebooks/ beside it.
    places = [Path("profiles"), Path("..") / "profiles", *(folder / "profiles" for folder in above)]
    return next((place for place in places if place.is_dir()), places[0])


def full_name(name: str, gpu: str | None) -> str:
    """Return ``<gpu>/<run>`` for that or for ``<run>`` alone, whose first part is made from the GPU's own name."""
    parts = name.strip("/").split("/")
    if len(parts) == 1:
        parts.insert(0, gpu_slug(gpu))
    try:
        first, second = (plain_name(part, "it") for part in parts)
    except ValueError:
        raise UserError(
            f"'{one_line(name, 60)}' cannot be the name of a run; use RUN or GPU/RUN, each with at most 100 letters, "
            "digits and _ . + -."
        ) from None
    return f"{first}/{second}"


def gpu_slug(gpu: str | None) -> str:
    """Return a folder name for a GPU: ``h200`` for ``NVIDIA H200``, ``rtx-3060`` for ``NVIDIA GeForce RTX 3060``."""
    words = re.findall(r"[a-z0-9]+", (gpu or "").lower())
    kept = [word for word in words if not _NOISE.fullmatch(word)]
    return "-".join(kept)[:80].rstrip("-") or "unknown"  # 80 leaves room in a name of 100 characters


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run of moe_lab: not a link, and with a ``run.json`` like ours."""
    return says(folder / MANIFEST, {"schema": int, "name": str})


def says(path: Path, keys: dict[str, type]) -> bool:
    """Return whether a file, not reached through a link, is a JSON object with those keys and types of values."""
    # What a link points to lies elsewhere, and is not ours to replace.
    if path.is_symlink() or path.parent.is_symlink():
        return False
    try:
        found: dict[str, Any] = decode_json(read_bytes(path), dict)
    except ValueError:
        return False
    return all(isinstance(found.get(key), kind) for key, kind in keys.items())


class Claim:
    """The right to make one folder, which only one command has at a time.

    Attributes:
        target: the folder.
        folder: where it is built, beside it; it becomes the target.
    """

    def __init__(self, target: Path, hidden: Path, check: Callable[[], None]):
        self.target, self.folder = target, hidden / "new"
        self._hidden, self._check = hidden, check

    def fresh(self) -> Path:
        """Return the folder to build in, empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self.folder

    def finish(self) -> Path:
        """Move what was built into place, and only then remove what was there; return the target."""
        self._check()
        old = self._hidden / "old"
        self.folder.chmod(0o755)  # it was private while it was built
        if self.target.exists():
            self.target.rename(old)
        try:
            self.folder.rename(self.target)
        except BaseException:
            _restore(self._hidden, self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return self.target


def _restore(hidden: Path, target: Path) -> None:
    """Put back what a command moved aside, if it did not get to put something in its place."""
    if (hidden / "old").exists() and not os.path.lexists(target):
        (hidden / "old").rename(target)


@contextmanager
def claim(
    root: Path,
    name: str,
    *,
    overwrite: bool = False,
    ours: Callable[[Path], bool] = is_run,
    what: str = "run",
    held: Claim | None = None,
) -> Iterator[Claim]:
    """Claim ``root``/``name`` for this command, and check all that can be checked before it is built.

    Args:
        root: profiles folder, or another one.
        name: of a folder two levels below it: ``h200/decode``.
        overwrite: whether to replace an existing folder of ours.
        ours: whether a folder is one of ours; nothing else is ever replaced.
        what: what is made, for error messages.
        held: a claim that this command already has; it is used again if it is for the same folder.

    Raises:
        UserError: the name is taken, another command is making it, what is there is not ours, or nothing can be
            written there.
    """
    target = root / name
    if held is not None and held.target == target:
        yield held
        return

    def check() -> None:
        _check(root, target, name, overwrite, ours, what)

    check()  # before anything is made; again once nobody else can make it, and before it is moved into place
    fresh = [p for p in (target.parent, root) if not p.exists()]
    try:
        hidden, handle = _claimed(target, name, what)
    except OSError as error:
        _remove_empty(fresh)
        raise UserError(
            f"Nothing can be written to '{one_line(root.name or str(root))}' ({error.strerror}); choose another folder."
        ) from None
    try:
        check()
        yield Claim(target, hidden, check)
    finally:
        _restore(hidden, target)
        shutil.rmtree(hidden, ignore_errors=True)
        os.close(handle)
        _remove_empty(fresh)


def _check(root: Path, target: Path, name: str, overwrite: bool, ours: Callable[[Path], bool], what: str) -> None:
    """Raise UserError for a folder that is not below the root, is taken, or is not ours to replace."""
    must_be_folder(root)
    below(root, target)
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise UserError(f"There already is a {what} '{name}'; choose another name or pass --overwrite.")
    if not ours(target):
        raise UserError(
            f"'{name}' is not a {what} of moe_lab, so it is not replaced; choose another name, or move it yourself."
        )


def _claimed(target: Path, name: str, what: str) -> tuple[Path, int]:
    """Make the hidden folder that marks ``target`` as being made; the one of a killed command is removed first."""
    hidden = target.with_name(f".{target.name}{_BUILDING}")
    for _ in range(20):  # another command may remove the parent, or its own hidden folder, in between
        with suppress(FileNotFoundError):
            target.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_BUILDING, dir=target.parent))
            handle = scratch.own(made)
            try:
                made.rename(hidden)  # atomic, and fails if there is one already, as that is never empty
                return hidden, handle
            except BaseException as error:
                os.close(handle)
                shutil.rmtree(made, ignore_errors=True)
                if not isinstance(error, OSError):
                    raise
            if not _clean(hidden) and hidden.exists():
                break
    raise UserError(f"Another command is making the {what} '{name}' now; wait for it or choose another name.")


def _clean(hidden: Path) -> str:
    """Put back what a killed command had moved aside and remove its hidden folder; return what was removed."""
    with scratch.left_behind(hidden) as gone:
        if not gone:
            return ""
        said = scratch.removed(hidden)
        _restore(hidden, hidden.with_name(hidden.name[1:].removesuffix(_BUILDING)))
        shutil.rmtree(hidden, ignore_errors=True)
        return said


def sweep(root: Path) -> list[str]:
    """Remove what killed commands left in a folder of runs; return a sentence on each."""
    said = []
    with suppress(OSError):
        for hidden in sorted(root.glob(f"*/.*{_BUILDING}")):
            if what := _clean(hidden):
                said.append(f"removed {what} in '{one_line(hidden.parent.name)}'.")
    return said


def must_be_folder(root: Path) -> None:
    """Raise UserError if the place for runs exists but is not a folder, or if its name is too long for one."""
    try:
        there = stat.S_ISDIR(root.stat().st_mode)
    except (FileNotFoundError, PermissionError):  # it can be made, or fails with a reason when it is used
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"'{one_line(root.name, 60)}' cannot be a folder of runs ({why}); give another with --profiles."
        ) from None
    if not there:
        raise UserError(f"'{one_line(root.name, 60)}' is a file, not a folder of runs; give another with --profiles.")


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # it holds something
            folder.rmdir()
