"""Download a released wheel with pip and unpack the few Python files that run a kernel; nothing is installed."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from datetime import datetime, timezone
from email.parser import Parser
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from moe_lab.errors import UserError
from moe_lab.peers import MANIFEST, PROJECTS, Part, Peer, Project, cache, fits

_LICENCES = re.compile(r"[^/]+\.dist-info/(licenses/)?(LICEN[CS]E|NOTICE)[^/]*")


def add(requirement: str) -> list[Peer]:
    """Unpack the kernels that a wheel carries into the cache, in place of the same release there.

    Args:
        requirement: ``vllm==0.15.0``, ``vllm`` for the newest, or the path of a wheel.

    Returns:
        One release for each project whose files are in the wheel.

    Raises:
        UserError: a package that carries no kernel that we know, pip cannot download it, or it lacks the files.
    """
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download.", dir=cache()) as folder:
        wheel = Path(requirement) if requirement.endswith(".whl") else _download(requirement, Path(folder))
        return unpack(wheel)


def _download(requirement: str, folder: Path) -> Path:
    name = re.split(r"[=<>!~ \[]", requirement, maxsplit=1)[0].lower().replace("-", "_")
    wheels = sorted({project.wheel for project in PROJECTS.values()})
    if name not in wheels:
        carried = PROJECTS.get(name)
        hint = (
            f"{name} has no wheel of its own (the package of that name on PyPI is another project); "
            f"{carried.wheel} carries it: moe-lab peers add {carried.example}."
            if carried
            else f"'{name}' carries no kernels that moe_lab can read; choose one of: {', '.join(wheels)}."
        )
        raise UserError(hint)
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([*argv, requirement], stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[0] if said else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"pip could not download {requirement}: {reason.partition(' (from versions')[0]}.")
    return wheel


def unpack(wheel: Path) -> list[Peer]:
    """Unpack the kernels of a wheel into the cache; see ``add``."""
    if not wheel.is_file() or not zipfile.is_zipfile(wheel):
        raise UserError(f"'{wheel.name}' is not a wheel; give a requirement such as vllm==0.15.0, or a .whl file.")
    with zipfile.ZipFile(wheel) as archive:
        metadata = _metadata(archive)
        name = str(metadata["Name"]).lower().replace("-", "_")
        facts = {
            "wheel": wheel.name,
            "sha256": _sha256(wheel),
            "licence": _licence(metadata),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        peers, missing = [], ""
        for key, project in PROJECTS.items():
            files = _files(archive, project) if project.wheel == name else {}
            lacking = [part for part in project.parts if project.parts[part].required and not files.get(part)]
            if project.wheel == name and not lacking:
                version = str(metadata["Version"]) if key == name else f"{name}-{metadata['Version']}"
                peers.append(_write(archive, key, version, project, files, facts))
            elif project.wheel == name:
                missing = f"its {' and '.join(lacking)} of {key}"
    if not peers:
        raise UserError(
            f"'{wheel.name}' lacks {missing or 'kernels that moe_lab can read'}; use another release, for example "
            + " or ".join(sorted({project.example for project in PROJECTS.values()}))
            + "."
        )
    return peers


def _metadata(archive: zipfile.ZipFile) -> Any:
    path = next((n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)), None)
    return Parser().parsestr(archive.read(path).decode() if path else "Name: unknown\nVersion: 0\n")


def _licence(metadata: Any) -> str | None:
    """Return the licence as an expression, as a classifier, or as the first line of its text."""
    given = [c.split("::")[-1].strip() for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    text = str(metadata["License"] or "").strip().splitlines()
    return metadata["License-Expression"] or ", ".join(given) or (text[0].strip() if text else None)


def _files(archive: zipfile.ZipFile, project: Project) -> dict[str, list[str]]:
    names = [n for n in archive.namelist() if not n.endswith("/") and ".." not in PurePosixPath(n).parts]
    return {key: [n for n in names if _belongs(archive, n, part)] for key, part in project.parts.items()}


def _belongs(archive: zipfile.ZipFile, name: str, part: Part) -> bool:
    if not any(fnmatch(name, pattern.replace("**/", "*")) for pattern in part.patterns):
        return False
    return not part.defines or fits(archive.read(name).decode(errors="replace"), part)


def _write(
    archive: zipfile.ZipFile,
    key: str,
    version: str,
    project: Project,
    files: dict[str, list[str]],
    facts: dict[str, Any],
) -> Peer:
    """Write a release under a temporary name, then put it in its place."""
    target = cache() / key / version
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{version}.", dir=target.parent) as scratch:
        folder = Path(scratch, "new")
        hashes = {}
        chosen = [(name, project.parts[part].strip) for part, names in files.items() for name in names]
        licences = [(name, "") for name in archive.namelist() if _LICENCES.fullmatch(name)]
        for name, strip in dict.fromkeys([*chosen, *licences]):
            path = folder / name.removeprefix(strip)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
            hashes[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        known = {"project": key, "version": version, "source": project.source, **facts, "files": hashes}
        known["licence"] = project.licence or facts["licence"]
        (folder / MANIFEST).write_text(json.dumps(known, indent=1) + "\n")
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    return Peer(key, version, target, "wheel", known)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
