#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/state/state.h"
#include "model/metadata.h"

namespace runner {

struct LoadOptions {
  int threads = 0;  // 0: see thread_count()
  bool metadata_only =
      false;  // read metadata and tokenizer, not the code: run() must not follow
};

// What a program wants of a state; what is absent is the artifact's.
struct StateChoice {
  std::optional<int64_t> context_length = {};
  std::optional<lowbit::CacheType> cache_type = {};
  int64_t sessions = 1;
};

using lowbit::OwnedState;
using lowbit::SessionId;

// The tokens of one forward: those of one or several sessions, one after the other.
struct Batch {
  std::span<const int64_t> tokens;    // 1 to max_chunk ids
  std::span<const int64_t> segments;  // [S, 2], S at most max_segments: a session, and how many are its
  std::span<const int64_t> rows;      // 1 to max_rows indices into `tokens`, whose logits are wanted
};

// The one seam between the generation loop and a backend: the mapped artifact, which does not change.
// What it remembers of sessions is in a state. Which backend is behind it is decided when a program is
// linked, so the core holds no framework include and tests link a fake.
class Model {
 public:
  virtual ~Model() = default;

  virtual const Metadata& metadata() const = 0;

  // The canonical tokenizer table's bytes, valid as long as the model.
  virtual std::string_view tokenizer_table() const = 0;

  virtual int threads() const = 0;

  // Instruction set of the code that runs, for statistics.
  virtual std::string isa() const = 0;

  // Throws Error or StateError for a choice that the artifact does not allow, for more than there is memory
  // for now (what other states have not written yet is not counted), and where an artifact on stock
  // operators, which has its cache in its graph, has a state already.
  std::shared_ptr<OwnedState> make_state(const StateChoice& choice);

  // Runs a forward at each session's position. Returns float32 logits [rows.size(), vocab_size], row
  // major, where the backend has them, valid until the next call; or in `room`, for one that has no place
  // of its own. Throws Error when the backend fails or another forward of this model runs, StateError when
  // a session's context ends; the sessions are then where they were.
  std::span<const float> run(const Batch& batch, const OwnedState& state, std::vector<float>& room);

 protected:
  virtual lowbit::Library library() const = 0;

  // What run() does, once the state is ready for it.
  virtual std::span<const float> run_graph(const Batch& batch, const OwnedState& state,
                                           std::vector<float>& room) = 0;

 private:
  std::weak_ptr<OwnedState> only_state_;  // of an artifact on stock operators
  std::atomic<bool> running_ = false;
};

// Both are defined by the one linked model file (et_model.cpp, aoti_model.cpp, a fake in tests).
// Throws Error when the file is missing, damaged, of another backend or unfit for this machine.
std::unique_ptr<Model> load_model(const std::string& path, const LoadOptions& options);
std::string_view backend_name();

}  // namespace runner
