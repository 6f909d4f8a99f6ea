"""Say what a bundle's programs and libraries need of a machine together, and whether its target has it."""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.artifact.contents import PT2, Artifact
from exporter.lower.targets import this_cpu, this_machine
from exporter.pack.elf_needs import SYSTEM_LIBRARY, is_elf, read_needs, version_key
from exporter.pack.self_test import NOT_RUN
from exporter.pack.targets import BundleTarget


@dataclass(frozen=True)
class CompiledCode:
    """Code that an artifact of AOTInductor has for one kind of CPU, and its folder in a `.pt2`."""

    machine: str
    cpu_features: tuple[str, ...]
    folder: str


def compiled_codes(artifact: Artifact) -> list[CompiledCode]:
    """List the code of an artifact; none of a `.pte`. Raises ValueError where its metadata are damaged."""
    return [_compiled_code(each, artifact.path) for each in artifact.targets]


def _compiled_code(target: object, path: Path) -> CompiledCode:
    fields = target if isinstance(target, Mapping) else {}
    machine, folder, features = (fields.get(key, "") for key in ("machine", "folder", "cpu_features"))
    if isinstance(features, list) and all(isinstance(word, str) for word in (machine, folder, *features)):
        return CompiledCode(machine, tuple(features), folder)
    raise ValueError(f"{path} is damaged: its metadata 'targets' are wrong; export it again")


def _code(folder: Path, artifact: Artifact, target: BundleTarget) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each program and library, those within a `.pt2` too."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and is_elf(path):
            yield path.relative_to(folder).as_posix(), path.read_bytes()
    if artifact.kind == PT2:
        with zipfile.ZipFile(artifact.path) as archive:
            endings = tuple(
                f"data/aotinductor/{code.folder}/model.so"
                for code in compiled_codes(artifact) if code.machine == target.machine
            )  # fmt: skip
            for name in archive.namelist():
                if name.endswith(endings):
                    yield f"{artifact.path.name}:{name}", archive.read(name)


def bundle_needs(folder: Path, artifact: Artifact, target: BundleTarget) -> dict[str, object]:
    """Return what the files of the bundle `folder` need together, as its manifest has it.

    Raises ValueError where one is for another machine, needs a library that is neither in the bundle nor of
    the system, or cannot be mapped by the target's pages.
    """
    found = {name: read_needs(data, name) for name, data in _code(folder, artifact, target)}
    own = {Path(name).name for name in found}
    versions: dict[str, str] = {}
    libraries = set()
    for name, needs in found.items():
        if needs.machine != target.machine:
            raise ValueError(
                f"{name} is for {needs.machine}, not for {target.machine}; build it for {target.name}"
            )
        if needs.alignment < target.page_size:
            raise ValueError(
                f"{name} cannot be mapped where pages have {target.page_size} bytes, since its parts lie at "
                f"multiples of {needs.alignment}; link it with -z max-page-size={target.page_size}"
            )
        strange = [lib for lib in needs.libraries if lib not in own and not SYSTEM_LIBRARY.fullmatch(lib)]
        if strange:
            raise ValueError(f"{name} needs {', '.join(strange)}, which not every system has; link it in")
        libraries |= set(needs.libraries) - own
        for kind, version in needs.versions.items():
            versions[kind] = max(versions.get(kind, "0"), version, key=version_key)
    _check_glibc(versions, target)
    features = [code.cpu_features for code in compiled_codes(artifact) if code.machine == target.machine]
    return {
        "machine": target.machine,
        "largest_page_bytes": target.page_size,
        "libraries": sorted(libraries),
        "versions": dict(sorted(versions.items())),
        "cpu_features": list(min(features, key=len, default=())),
    }


def _check_glibc(versions: Mapping[str, str], target: BundleTarget) -> None:
    if target.glibc is None:
        return
    needed = versions.get("GLIBC", "0")
    if "GLIBCXX" in versions or version_key(needed) > version_key(target.glibc):
        word = "libstdc++" if "GLIBCXX" in versions else f"glibc {needed}"
        raise ValueError(
            f"the model's code needs {word}, which {target.name} may not have; export it with --target "
            f"{code_option(target)} alone"
        )


def check_features(artifact: Artifact, target: BundleTarget) -> None:
    """Raise ValueError where all code of an artifact for the target asks for more than its CPUs have."""
    codes = [code for code in compiled_codes(artifact) if code.machine == target.machine]
    lacking = [[name for name in code.cpu_features if name not in target.cpu_features] for code in codes]
    if all(lacking):
        words = ", ".join(min(lacking, key=len))
        raise ValueError(
            f"{artifact.path} has code for CPUs with {words} alone, which {target.name} may not have; "
            f"export it with --target {code_option(target)} as well"
        )


def code_option(target: BundleTarget) -> str:
    """Name the code that every machine of a target runs, as the exporter's --target has it."""
    words = target.machine.replace("_", "-")
    return words if target.glibc is None else f"{words}-glibc{target.glibc}"


def lacking_here(needs: Mapping[str, object]) -> str | None:
    """Say why what needs so much cannot be run here for a lack of CPU features; None where there is none."""
    if needs["machine"] != this_machine():
        return None
    lacking = sorted(set(needs["cpu_features"]) - this_cpu())
    return f"{NOT_RUN}: this CPU has no {', '.join(lacking)}" if lacking else None
