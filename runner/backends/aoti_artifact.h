#pragma once

#include <cstddef>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "model/metadata.h"
#include "system/mapped_file.h"
#include "system/zip_archive.h"

namespace runner {

// A .pt2 or .so: what it says of itself, and where its parts lie. Nothing of it is run.
struct AotiArtifact {
  std::string path;
  Metadata metadata;
  std::string tokenizer;  // the canonical table

  // Of a .pt2 only; the spans point into the mapped file.
  std::optional<MappedFile> file;
  std::vector<ZipMember> members;
  std::span<const std::byte> weights;
};

// Throws Error when the file is missing, damaged, no artifact of AOTInductor, or of another version.
AotiArtifact open_aoti_artifact(const std::string& path);

// The same for the bytes of a .pt2, which must outlive it. `path` is for messages.
AotiArtifact read_aoti_package(const std::string& path, std::span<const std::byte> bytes);

// Where the code of a package for `target` lies; checked against its sum.
// Throws Error when it is not there or damaged.
std::span<const std::byte> package_code(const AotiArtifact& artifact, const Target& target);

// A weight's bytes in `weights`. Throws Error when they are not all there, or not aligned.
std::span<const std::byte> place_of(const std::string& path, const Weight& weight,
                                    std::span<const std::byte> weights);

// Of the targets that this CPU can run, the one that asks for most.
// Throws Error that names what is missing when there is none.
const Target& best_target(const AotiArtifact& artifact);
// The same for a CPU of that `machine` and those features; none where the system does not say.
const Target& best_target(const AotiArtifact& artifact, const std::string& machine,
                          const std::optional<std::set<std::string>>& available);

}  // namespace runner
