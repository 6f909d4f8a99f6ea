#include "backends/aoti_artifact.h"

#include <sys/utsname.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "model/artifact_file.h"
#include "system/cpu_features.h"
#include "system/error.h"
#include "text/base64.h"

namespace runner {
namespace {

// Below the archive's root folder.
constexpr std::string_view kModels = "data/aotinductor/";
constexpr std::string_view kMetadata = "data/aotinductor/model/model_metadata.json";
constexpr std::string_view kWeightsBlob = "data/aotinductor/model/model_weights.blob";
constexpr std::string_view kTokenizerTable = "tokenizer/table";
constexpr std::string_view kCode = "/model.so";
constexpr uintptr_t kWeightAlignment = 64;  // of the kernels' widest vectors

std::string_view text_of(const ZipMember& member) {
  return {reinterpret_cast<const char*>(member.data.data()), member.data.size()};
}

StringMap parse_string_map(const std::string& path, std::string_view text) {
  const auto object = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) throw Error(path + " holds damaged metadata; export the model again");
  StringMap map;
  for (const auto& [key, value] : object.items()) {
    if (value.is_string()) map[key] = value.get<std::string>();
  }
  return map;
}

const ZipMember* find(const std::vector<ZipMember>& members, std::string_view name) {
  for (const ZipMember& member : members) {
    const size_t root = member.name.find('/');
    if (root != std::string_view::npos && member.name.substr(root + 1) == name) return &member;
  }
  return nullptr;
}

void read_sidecar(AotiArtifact& artifact) {
  const std::string path = artifact.path + ".json";
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error("cannot read " + path + ", which belongs beside " + artifact.path +
                "; copy both, or export again with --output-dso");
  }
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  artifact.metadata = parse_metadata(parse_string_map(path, text), artifact.path, kAotiBackend);
  const auto found = artifact.metadata.raw.find(keys::kTokenizer);
  if (found == artifact.metadata.raw.end()) {
    throw Error(artifact.path + " has no tokenizer; export the model again");
  }
  artifact.tokenizer = decode_base64(found->second);
}

// As exporter/lower/targets.py says it.
std::string this_machine() {
#ifdef __APPLE__
  constexpr const char* kSystem = "-macos";
#else
  constexpr const char* kSystem = "";
#endif
  utsname name{};
  const std::string machine = uname(&name) == 0 ? name.machine : "";
  return (machine == "arm64" ? "aarch64" : machine) + kSystem;  // arm64 is macOS's name for it
}

void check_tokenizer(const AotiArtifact& artifact) {
  if (std::ssize(artifact.tokenizer) != artifact.metadata.tokenizer_size) {
    throw Error(artifact.path + " has a damaged tokenizer; export the model again");
  }
}

void read_package(AotiArtifact& artifact, std::span<const std::byte> bytes) {
  const std::string& path = artifact.path;
  artifact.members = read_zip(path, bytes);
  const ZipMember* metadata = find(artifact.members, kMetadata);
  if (metadata == nullptr) {
    throw Error(path +
                " is an archive without a compiled model of this project; give a file exported "
                "with --output-aoti-package");
  }
  check_zip_crc(path, *metadata);
  artifact.metadata =
      parse_metadata(parse_string_map(path, text_of(*metadata)), path, kAotiBackend);
  const ZipMember* tokenizer = find(artifact.members, kTokenizerTable);
  if (tokenizer == nullptr) throw Error(path + " has no tokenizer; export the model again");
  check_zip_crc(path, *tokenizer);
  artifact.tokenizer = text_of(*tokenizer);
  if (const ZipMember* weights = find(artifact.members, kWeightsBlob)) {
    artifact.weights = weights->data;
  }
  for (const Weight& weight : artifact.metadata.weights) place_of(path, weight, artifact.weights);
  check_tokenizer(artifact);
}

}  // namespace

AotiArtifact read_aoti_package(const std::string& path, std::span<const std::byte> bytes) {
  AotiArtifact artifact;
  artifact.path = path;
  read_package(artifact, bytes);
  return artifact;
}

std::span<const std::byte> place_of(const std::string& path, const Weight& weight,
                                    std::span<const std::byte> weights) {
  if (weight.offset > weights.size() || weight.bytes > weights.size() - weight.offset) {
    throw Error(path + " is damaged: the weight " + weight.name +
                " lies beyond the end of its weights; copy or export it again");
  }
  const auto place = weights.subspan(weight.offset, weight.bytes);
  if (reinterpret_cast<uintptr_t>(place.data()) % kWeightAlignment != 0) {
    throw Error(path + " has the weight " + weight.name +
                " at an uneven place, as if it had been packed again; export the model again");
  }
  return place;
}

AotiArtifact open_aoti_artifact(const std::string& path) {
  const FileInfo info = inspect_artifact(path);
  if (info.kind == FileKind::executorch) {
    throw Error(path + " is a .pte (ExecuTorch program); run it with et_run");
  }
  AotiArtifact artifact;
  artifact.path = path;
  if (info.kind == FileKind::zip) {
    artifact.file.emplace(path);
    read_package(artifact, artifact.file->bytes());
  } else if (info.kind == FileKind::elf) {
    check_elf_header(path, info);
    read_sidecar(artifact);
    check_tokenizer(artifact);
  } else {
    throw Error(path +
                " is neither a .pt2 nor a .so; give a file exported with "
                "--output-aoti-package or --output-dso");
  }
  return artifact;
}

std::span<const std::byte> package_code(const AotiArtifact& artifact, const Target& target) {
  const std::string name = std::string(kModels) + target.folder + std::string(kCode);
  const ZipMember* code = find(artifact.members, name);
  if (code == nullptr) {
    throw Error(artifact.path + " has no code for " + target.name + " (" + name +
                "); export the model again");
  }
  check_zip_crc(artifact.path, *code);
  return code->data;
}

const Target& best_target(const AotiArtifact& artifact) {
  return best_target(artifact, this_machine(), cpu_features());
}

const Target& best_target(const AotiArtifact& artifact, const std::string& machine,
                          const std::optional<std::set<std::string>>& available) {
  const Target* best = nullptr;
  std::string refused;
  for (const Target& target : artifact.metadata.targets) {
    std::string lacking;
    if (target.machine != machine) {
      lacking = " a machine of " + target.machine;
    } else if (available) {
      for (const std::string& name : missing_features(target.cpu_features, *available)) {
        lacking += " " + name;
      }
    }
    if (!lacking.empty()) {
      refused += (refused.empty() ? "" : "; ") + target.name + " needs" + lacking;
      continue;
    }
    // Where the system does not say what the CPU has, the least is the safest.
    const size_t asks = target.cpu_features.size();
    const bool better = !best || (available ? asks > best->cpu_features.size()
                                            : asks < best->cpu_features.size());
    if (better) best = &target;
  }
  if (best == nullptr) {
    throw Error(artifact.path + " has no code that this machine (" + machine + ") can run: " + refused +
                "; export it with another --target");
  }
  return *best;
}

}  // namespace runner
