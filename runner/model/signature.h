#pragma once

#include <string>

namespace runner {

// Checks that the file `path` is as it was signed: `path`.minisig is the signature of it by the public key in
// the file `key`. Both are of the form of Frank Denis's minisign: Ed25519 over the file's BLAKE2b hash, or in
// the older form over the file itself. Throws Error when one of them is missing, damaged or of
// another key, and when the file was changed.
void check_signature(const std::string& path, const std::string& key);

}  // namespace runner
