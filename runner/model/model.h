#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/metadata.h"

namespace runner {

struct LoadOptions {
  int threads = 0;  // 0: see thread_count()
  bool metadata_only =
      false;  // read metadata and tokenizer, not the code: forward() must not follow
};

// The one seam between the generation loop and a backend. Which backend is behind it is decided
// when a program is linked, so the core holds no framework include and tests link a fake.
class Model {
 public:
  virtual ~Model() = default;

  virtual const Metadata& metadata() const = 0;

  // The canonical tokenizer table's bytes, valid as long as the model.
  virtual std::string_view tokenizer_table() const = 0;

  // Runs one chunk: `tokens` (1 to max_chunk ids) at positions `start_pos`, `start_pos + 1`, ...
  // Writes float32 logits [rows.size(), vocab_size], row major, of the chunk's positions `rows`
  // (1 to max_rows indices into `tokens`). Positions before `start_pos` must have been run;
  // those from `start_pos` on are overwritten, so that a position can be rewound.
  // Throws Error when the backend fails.
  virtual void forward(std::span<const int64_t> tokens, int64_t start_pos,
                       std::span<const int64_t> rows, std::span<float> logits) = 0;

  // The same, with the logits where the backend has them, valid until the next call; `room` is for
  // one that has no place of its own.
  virtual std::span<const float> run(std::span<const int64_t> tokens, int64_t start_pos,
                                     std::span<const int64_t> rows, std::vector<float>& room) {
    room.resize(rows.size() * static_cast<size_t>(metadata().vocab_size));
    forward(tokens, start_pos, rows, room);
    return room;
  }

  virtual int threads() const = 0;

  // Instruction set of the code that runs, for statistics.
  virtual std::string isa() const = 0;
};

// Both are defined by the one linked model file (et_model.cpp, aoti_model.cpp, a fake in tests).
// Throws Error when the file is missing, damaged, of another backend or unfit for this machine.
std::unique_ptr<Model> load_model(const std::string& path, const LoadOptions& options);
std::string_view backend_name();

}  // namespace runner
