# SPDX-License-Identifier: Apache-2.0
"""Download a released wheel with pip and unpack the few Python files that run a kernel; nothing is installed."""

import hashlib
import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from email.message import Message
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import places, scratch
from moe_lab.spec.guard.entry import one_line
from moe_lab.spec.peers import MANIFEST, PROJECTS, Part, Peer, Project, cache, fits
from moe_lab.spec.peers.wheel import Wheel

# The licence goes with the code that it covers, as most licences ask for.
_LICENCES = re.compile(r"[^/]+\.dist-info/(licenses/)?(LICEN[CS]E|NOTICE)[^/]*")


def add(requirement: str) -> list[Peer]:
    """Unpack the kernels in a wheel into the cache; the same release there is replaced.

    Args:
        requirement: ``vllm==0.15.0``, ``vllm`` for the newest, or the path of a wheel.

    Returns:
        One release for each project whose files are in the wheel.

    Raises:
        UserError: the package has no kernels that we know, pip cannot download it, or it lacks the files.
    """
    if requirement.endswith(".whl"):
        return unpack(Path(requirement))
    with scratch.private() as place:
        return unpack(_download(requirement, place.folder))


def _download(requirement: str, folder: Path) -> Path:
    name = re.split(r"[=<>!~ \[]", requirement, maxsplit=1)[0].lower().replace("-", "_")
    wheels = sorted({project.wheel for project in PROJECTS.values()})
    if name not in wheels:
        carried = PROJECTS.get(name)
        hint = (
            f"{name} has no wheel of its own (the package of that name on PyPI is another project); "
            f"{carried.wheel} carries it: moe-lab peers add {carried.example}."
            if carried
            else f"'{name}' has no kernels that moe_lab can read; choose one of: {', '.join(wheels)}."
        )
        raise UserError(hint)
    # Only wheels, and no dependencies: to build a source package would run others' code, and torch is not needed.
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([*argv, requirement], stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[0] if said else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        # pip lists every version that exists, hundreds of them.
        raise UserError(f"pip could not download {requirement}: {reason.partition(' (from versions')[0]}.")
    return wheel


def unpack(path: Path) -> list[Peer]:
    """Unpack the kernels of a wheel into the cache; see ``add``."""
    with Wheel.opened(path) as wheel:
        name, version = wheel.name_and_version()
        facts = {
            "wheel": path.name,
            "sha256": _sha256(path),
            "licence": _licence(wheel.metadata),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        peers, missing = [], ""
        for key, project in PROJECTS.items():
            files = _files(wheel, project) if project.wheel == name else {}
            lacking = [part for part in project.parts if project.parts[part].required and not files.get(part)]
            if project.wheel == name and not lacking:
                own = version if key == name else f"{name}-{version}"
                peers.append(_write(wheel, key, own, project, files, facts))
            elif project.wheel == name:
                missing = f"its {' and '.join(lacking)} of {key}"
    if not peers:
        raise UserError(
            f"'{one_line(path.name)}' lacks {missing or 'kernels that moe_lab can read'}; use another release, for "
            f"example {' or '.join(sorted({project.example for project in PROJECTS.values()}))}."
        )
    return peers


def _licence(metadata: Message) -> str | None:
    """Return the licence as an expression, else as classifiers, else as the first line of its text."""
    classifiers = [str(c) for c in metadata.get_all("Classifier") or []]
    given = [c.split("::")[-1].strip() for c in classifiers if c.startswith("License ::")]
    said = str(metadata["License-Expression"] or ", ".join(given) or metadata["License"] or "").strip()
    return one_line(said) or None


def _files(wheel: Wheel, project: Project) -> dict[str, list[str]]:
    return {key: [n for n in wheel.names if _belongs(wheel, n, part)] for key, part in project.parts.items()}


def _belongs(wheel: Wheel, name: str, part: Part) -> bool:
    # The * of fnmatch crosses folders already, and does not know **.
    if not any(fnmatch(name, pattern.replace("**/", "*")) for pattern in part.patterns):
        return False
    return not part.defines or fits(wheel.read(name).decode(errors="replace"), part)


def _write(
    wheel: Wheel, key: str, version: str, project: Project, files: dict[str, list[str]], facts: dict[str, Any]
) -> Peer:
    """Write a release to a temporary folder, then move it into place; only a release of ours is replaced."""

    def ours(folder: Path) -> bool:
        return places.says(folder / MANIFEST, {"project": str, "files": dict})

    with places.claim(cache(), f"{key}/{version}", overwrite=True, ours=ours, what="release") as claim:
        folder, hashes = claim.fresh(), {}
        chosen = [(name, project.parts[part].strip) for part, names in files.items() for name in names]
        licences = [(name, "") for name in wheel.names if _LICENCES.fullmatch(name)]
        for name, strip in dict.fromkeys([*chosen, *licences]):
            content, inside = wheel.read(name), name.removeprefix(strip)
            try:
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                (folder / inside).write_bytes(content)
            except OSError as error:
                raise UserError(f"A file of '{facts['wheel']}' cannot be written ({error.strerror}).") from None
            hashes[inside] = hashlib.sha256(content).hexdigest()
        known = {"project": key, "version": version, "source": project.source, **facts, "files": hashes}
        known["licence"] = project.licence or facts["licence"]
        (folder / MANIFEST).write_text(json.dumps(known, indent=1) + "\n")
        return Peer(key, version, claim.finish(), "wheel", known)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
