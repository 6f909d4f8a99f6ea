#pragma once

#include <string>

namespace runner {

// Checks by the minisign public key in the file `key` that the model `path` is as it was signed, and what
// belongs to it: in a bundle, whose folder has a MANIFEST.json.minisig, the signature of the manifest and the
// SHA-256 of every file that it names, the model among them; elsewhere the signature beside the model, and for a .so that of
// its .json. Throws Error that names the first file that is not.
void check_signed(const std::string& path, const std::string& key);

}  // namespace runner
