"""Write down what was packed, what it needs and what was checked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from exporter import __version__
from exporter.artifact.contents import Artifact, stored_recipe
from exporter.artifact.metadata import stored_adapters
from exporter.pack.targets import BundleTarget

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class Facts:
    """What a manifest says: the artifact and its file's name in what was packed, what the target must have,
    and the verdicts."""

    artifact: Artifact
    file: str
    target: BundleTarget
    needs: Mapping[str, object]
    verify: Mapping[str, object] | str
    self_test: Mapping[str, object] | str


def manifest_text(facts: Facts, files: Mapping[str, Mapping[str, object]]) -> str:
    """Return the JSON of a manifest; `files` are size and SHA-256 by name."""
    artifact, metadata = facts.artifact, facts.artifact.metadata
    versions = {key: value for key, value in metadata.items() if key.endswith("_version") and value}
    manifest = {
        "format": 1,
        "target": facts.target.name,
        "boards": list(facts.target.boards),
        "needs": facts.needs,
        "artifact": {
            "file": facts.file,
            "model": artifact.model_name,
            "recipe": stored_recipe(artifact),
            "delegate": artifact.delegate,
            "checkpoint_digest": metadata.get("checkpoint_digest"),
            "adapters": stored_adapters(metadata),
            "versions": versions,
        },
        "packed_by": f"exporter {__version__}",
        "verify": facts.verify,
        "self_test": facts.self_test,
        "files": files,
    }
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


def described(path: Path) -> dict[str, object]:
    """Return a file's size and SHA-256, as a manifest has them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": sha256_of_stream(file)}


def sha256_of_stream(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
