#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/model.h"
#include "text/tokenizer.h"

namespace runner {

// What was compared, with ==, with the answers that the exporter stored in an artifact, and how fast it ran.
struct SelfTest {
  int64_t texts = 0, conversations = 0;  // whose token ids were compared
  int64_t prompts = 0, positions = 0;    // whose logits were compared; none on stock operators
  std::vector<std::string> wrong;        // a line for each that differs

  double prefill_tokens_per_second = 0, decode_tokens_per_second = 0;  // 0: could not be timed
  double weight_bytes_per_second = 0;  // read while decoding; 0: not known
};

// Runs an artifact's self-test, in a state of its own with the cache type that the exporter had and a
// context that is long enough. The tokenizer is the artifact's. `interrupted` is asked meanwhile; what is
// returned is worth nothing then. Throws Error where the artifact has no self-test, or a damaged one.
SelfTest run_self_test(Model& model, const Tokenizer& tokenizer,
                       const std::function<bool()>& interrupted);

}  // namespace runner
