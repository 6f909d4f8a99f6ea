#include "decode/score.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "kernels/lowbit.h"
#include "system/error.h"
#include "system/shared_pool.h"

namespace runner {
namespace {

void check(const Session& session, std::span<const int32_t> tokens, int64_t first) {
  const int64_t n = std::ssize(tokens);
  if (n < 2) {
    throw Error("cannot score " + std::to_string(n) + (n == 1 ? " token" : " tokens") +
                ": a token needs one before it; give two or more");
  }
  if (first < 1 || first >= n) {
    throw Error("cannot score from token " + std::to_string(first) + " of " + std::to_string(n) +
                ": a token needs one before it; give a number from 1 to " + std::to_string(n - 1));
  }
  if (n > session.context_length()) {
    throw Error("there are " + std::to_string(n) + " tokens to score, the context holds " +
                std::to_string(session.context_length()) +
                "; score fewer at once or " + session.longer_context());
  }
  check_vocabulary(session.model().metadata(), tokens);
}

}  // namespace

std::vector<float> score(Session& session, std::span<const int32_t> tokens, int64_t first,
                         const ScoreOptions& options) {
  check(session, tokens, first);
  Model& model = session.model();
  const Metadata& metadata = model.metadata();
  session.rewind(0);
  const int64_t end = std::ssize(tokens) - 1;  // nothing is asked of the last token
  const std::vector<int64_t> ids(tokens.begin(), tokens.end());
  std::vector<float> scores(static_cast<size_t>(end + 1 - first)), room;
  std::vector<int64_t> rows;
  for (int64_t position = 0; position < end;) {
    if (options.progress) options.progress(position);
    // The first position of this chunk whose logits are wanted, and the end of the chunk.
    const int64_t wanted = std::max(position, first - 1);
    const int64_t stop =
        std::min({end, position + metadata.max_chunk, wanted + metadata.max_rows});
    const bool unread = wanted >= stop;  // a forward must ask for at least one row
    rows.resize(unread ? 1 : static_cast<size_t>(stop - wanted));
    std::iota(rows.begin(), rows.end(), (unread ? stop - 1 : wanted) - position);
    const auto length = static_cast<size_t>(stop - position);
    const auto at = static_cast<size_t>(position);
    const int64_t segment[] = {session.id(), stop - position};
    const std::span<const float> logits =
        model.run({std::span(ids).subspan(at, length), segment, rows}, session.state(), room);
    session.note(tokens.subspan(at, length),
                 logits.last(static_cast<size_t>(metadata.vocab_size)));
    if (!unread) {
      float* out = scores.data() + (wanted + 1 - first);
      lowbit::log_softmax_at(shared_pool(model.threads()), logits.data(), std::ssize(rows),
                             metadata.vocab_size, &ids[static_cast<size_t>(wanted + 1)], out);
      for (size_t i = 0; i < rows.size(); ++i) {
        if (std::isnan(out[i])) {
          throw Error("the model's logits at position " +
                      std::to_string(wanted + static_cast<int64_t>(i)) +
                      " are not numbers" + kNotNumbers);
        }
      }
    }
    position = stop;
  }
  return scores;
}

}  // namespace runner
