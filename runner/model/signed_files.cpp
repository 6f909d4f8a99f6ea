#include "model/signed_files.h"

#include <sodium/crypto_hash_sha256.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "model/artifact_file.h"
#include "model/signature.h"
#include "system/error.h"
#include "system/mapped_file.h"

namespace runner {
namespace {

std::string sha256_of(const std::string& path) {
  const MappedFile file(path);
  unsigned char hash[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(hash, reinterpret_cast<const unsigned char*>(file.bytes().data()), file.bytes().size());
  std::string digits;
  for (const unsigned char byte : hash) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", byte);
    digits += two;
  }
  return digits;
}

// The manifest's "files"; null where it is not one.
nlohmann::json files_of(const std::string& manifest) {
  const MappedFile file(manifest);
  const auto* text = reinterpret_cast<const char*>(file.bytes().data());
  const auto parsed = nlohmann::json::parse(text, text + file.bytes().size(), nullptr, /*allow_exceptions=*/false);
  return parsed.is_object() ? parsed.value("files", nlohmann::json()) : nlohmann::json();
}

}  // namespace

void check_signed(const std::string& path, const std::string& key) {
  const std::filesystem::path model(path), folder = model.parent_path();
  const std::string manifest = (folder / "MANIFEST.json").string();
  std::error_code unknown;
  if (!std::filesystem::exists(manifest + ".minisig", unknown)) {
    // A bundle's own runner is to find damage in itself, also to the name that is looked for above.
    if (std::filesystem::exists(folder / "run.sh", unknown)) {
      throw Error(path + " is in a bundle whose signed manifest is missing; copy the bundle again, or sign its "
                  "manifest");
    }
    check_signature(path, key);
    if (inspect_artifact(path).kind == FileKind::elf) check_signature(path + ".json", key);
    return;
  }
  check_signature(manifest, key);
  const nlohmann::json files = files_of(manifest);
  if (!files.is_object() || !files.contains(model.filename().string())) {
    throw Error(manifest + " is no bundle's with " + model.filename().string() + "; give the bundle's own model");
  }
  for (const auto& [name, said] : files.items()) {
    const std::string file = (folder / name).string();
    if (!std::filesystem::exists(file, unknown)) {
      throw Error(file + " is missing, which the manifest names; copy the bundle again");
    }
    const std::string hash = said.is_object() ? said.value("sha256", std::string()) : "";
    if (sha256_of(file) != hash) {
      throw Error(file + " is not as it was signed: it was changed; copy the bundle again");
    }
  }
}

}  // namespace runner
