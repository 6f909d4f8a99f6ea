#pragma once

#include "model/metadata.h"
#include "model/metadata_reader.h"

namespace runner {

// Reads what an artifact on our operators says of its state. Throws Error.
void read_state(const MetadataReader& in, Metadata& m);

}  // namespace runner
