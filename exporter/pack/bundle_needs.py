"""Say what a bundle's programs and libraries need of a machine together, and whether its target has it."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from exporter.artifact.contents import PTE, SO, Artifact
from exporter.pack.elf_needs import SYSTEM_LIBRARY, is_elf, read_needs, version_key
from exporter.pack.targets import BundleTarget


def _code(folder: Path, artifact: Artifact, target: BundleTarget) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each program and library, those within a `.pt2` too."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and is_elf(path):
            yield path.relative_to(folder).as_posix(), path.read_bytes()
    if artifact.kind not in (PTE, SO):
        with zipfile.ZipFile(artifact.path) as archive:
            for each in artifact.targets:
                if each.get("machine") != target.machine:
                    continue
                ending = f"data/aotinductor/{each['folder']}/model.so"
                for name in archive.namelist():
                    if name.endswith(ending):
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
    features = [
        list(code["cpu_features"]) for code in artifact.targets if code.get("machine") == target.machine
    ]
    return {
        "machine": target.machine,
        "largest_page_bytes": target.page_size,
        "libraries": sorted(libraries),
        "versions": dict(sorted(versions.items())),
        "cpu_features": min(features, key=len, default=[]),
    }
