#include "model/signature.h"

#include <sodium/crypto_generichash_blake2b.h>
#include <sodium/crypto_sign_ed25519.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "system/error.h"
#include "system/mapped_file.h"
#include "text/base64.h"

// libsodium calls it where its own functions are misused, which those below are not.
extern "C" [[gnu::weak]] void sodium_misuse() { std::abort(); }

namespace runner {
namespace {

constexpr size_t kIdBytes = 8, kLongest = 1 << 16;
constexpr std::string_view kLegacy = "Ed", kHashed = "ED", kTrusted = "trusted comment: ";

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// The lines of a small file, without their ends.
std::vector<std::string> read_lines(const std::string& path, const std::string& what, const std::string& remedy) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kLongest, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad() || file.gcount() == 0) {
    throw Error("cannot read " + what + " " + path + "; " + remedy);
  }
  text.resize(static_cast<size_t>(file.gcount()));
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') lines.emplace_back();
    else if (c != '\r') lines.back() += c;
  }
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

// The bytes that a line says in base64; empty where it is no such line of that length.
std::string decoded(const std::string& line, size_t length) {
  try {
    std::string bytes = decode_base64(line);
    return bytes.size() == length ? bytes : "";
  } catch (const Error&) {
    return "";
  }
}

// As minisign prints it: the eight bytes as one little-endian number.
std::string key_name(std::string_view id) {
  std::string name;
  for (size_t i = id.size(); i-- > 0;) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02X", static_cast<unsigned char>(id[i]));
    name += digits;
  }
  return name;
}

struct Key {
  std::string id, bytes;
};

Key read_key(const std::string& path) {
  const auto lines = read_lines(path, "the public key", "give minisign's, which its -G writes (minisign.pub)");
  const std::string data =
      lines.empty() ? "" : decoded(lines.back(), 2 + kIdBytes + crypto_sign_ed25519_PUBLICKEYBYTES);
  if (!data.starts_with(kLegacy)) {
    throw Error(path + " is no public key of minisign's; give the one that its -G writes (minisign.pub)");
  }
  return {data.substr(2, kIdBytes), data.substr(2 + kIdBytes)};
}

struct Signature {
  bool hashed = false;
  std::string key_id, bytes, comment, comment_bytes;
};

Signature read_signature(const std::string& path) {
  const auto lines = read_lines(path, "the signature", "sign the file with pack --sign or minisign -Sm, or leave "
                                                       "--require-signature out");
  const std::string data = lines.size() == 4 ? decoded(lines[1], 2 + kIdBytes + crypto_sign_ed25519_BYTES) : "";
  const bool hashed = data.starts_with(kHashed);
  Signature found{hashed, "", "", "", ""};
  if (hashed || data.starts_with(kLegacy)) {
    found.key_id = data.substr(2, kIdBytes);
    found.bytes = data.substr(2 + kIdBytes);
    if (lines[2].starts_with(kTrusted)) {
      found.comment = lines[2].substr(kTrusted.size());
      found.comment_bytes = decoded(lines[3], crypto_sign_ed25519_BYTES);
    }
  }
  if (found.comment_bytes.empty()) throw Error(path + " is no signature of minisign's; copy it again");
  return found;
}

std::string hash_of(std::span<const std::byte> data) {
  std::string hash(crypto_generichash_blake2b_BYTES_MAX, '\0');
  auto* out = reinterpret_cast<unsigned char*>(hash.data());
  crypto_generichash_blake2b(out, hash.size(), reinterpret_cast<const unsigned char*>(data.data()), data.size(),
                             nullptr, 0);
  return hash;
}

bool signed_by(const Key& key, const std::string& signature, std::string_view message) {
  return crypto_sign_ed25519_verify_detached(bytes_of(signature), bytes_of(message), message.size(),
                                             bytes_of(key.bytes)) == 0;
}

}  // namespace

void check_signature(const std::string& path, const std::string& key_path) {
  const Key key = read_key(key_path);
  const std::string signature_path = path + ".minisig";
  const Signature signature = read_signature(signature_path);
  if (signature.key_id != key.id) {
    throw Error(signature_path + " is by the key " + key_name(signature.key_id) + ", not by " + key_name(key.id) +
                " of " + key_path + "; give the key of who signed it");
  }
  const MappedFile file(path);
  const auto data = file.bytes();
  const std::string hash = signature.hashed ? hash_of(data) : "";
  const std::string_view message =
      signature.hashed ? std::string_view(hash) : std::string_view(reinterpret_cast<const char*>(data.data()), data.size());
  if (!signed_by(key, signature.bytes, message)) {
    throw Error(path + " is not as it was signed: it or its signature was changed; copy both again");
  }
  if (!signed_by(key, signature.comment_bytes, signature.bytes + signature.comment)) {
    throw Error(signature_path + " was changed: its comment is not as it was signed; copy it again");
  }
}

}  // namespace runner
