#include "runner/generate.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "runner/error.h"

namespace runner {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Session::Session(Model& model, int64_t prefill_chunk) : model_(model) {
  const int64_t most = model.metadata().max_chunk;
  prefill_chunk_ = prefill_chunk > 0 ? std::min(prefill_chunk, most) : most;
}

void Session::check(std::span<const int32_t> tokens) const {
  if (tokens.empty()) throw Error("there are no tokens to run; give a prompt");
  const int64_t needed = position() + std::ssize(tokens);
  if (needed > context_length()) {
    throw Error("the prompt needs " + std::to_string(needed) + " tokens, the context holds " +
                std::to_string(context_length()) +
                "; shorten the prompt or export with a larger --max-seq-length");
  }
  check_vocabulary(model_.metadata(), tokens);
}

bool Session::append(std::span<const int32_t> tokens, const RowSink& every_row,
                     const std::function<bool()>& interrupted) {
  check(tokens);
  const auto vocab_size = static_cast<size_t>(model_.metadata().vocab_size);
  const auto chunk_size = static_cast<size_t>(
      every_row ? std::min(prefill_chunk_, model_.metadata().max_rows) : prefill_chunk_);
  while (!tokens.empty()) {
    if (interrupted && interrupted()) return false;
    const size_t length = std::min(chunk_size, tokens.size());
    const auto chunk = tokens.first(length);
    chunk_.assign(chunk.begin(), chunk.end());
    tokens = tokens.subspan(length);
    // A forward must ask for at least one row; of all but the last chunk nobody reads it.
    rows_.resize(every_row ? length : 1);
    std::iota(rows_.begin(), rows_.end(), static_cast<int64_t>(length - rows_.size()));
    chunk_logits_.resize(rows_.size() * vocab_size);
    model_.forward(chunk_, position(), rows_, chunk_logits_);
    tokens_.insert(tokens_.end(), chunk.begin(), chunk.end());
    const std::span<const float> logits(chunk_logits_);
    if (every_row) {
      for (size_t row = 0; row < length; ++row) {
        every_row(logits.subspan(row * vocab_size, vocab_size));
      }
    }
    last_logits_ = logits.last(vocab_size);
  }
  return true;
}

GenerateResult generate(Session& session, Sampler& sampler, std::span<const int32_t> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token) {
  GenerateResult result;
  const auto finish = [&](StopReason reason) {
    result.reason = reason;
    return result;
  };
  const auto interrupted = [&] { return options.interrupted && options.interrupted(); };

  const auto prefill_start = Clock::now();
  const int64_t before = session.position();
  const bool whole = session.append(prompt, options.every_prompt_row, options.interrupted);
  result.prompt_tokens = session.position() - before;
  result.prefill_seconds = seconds_since(prefill_start);
  if (!whole) return finish(StopReason::interrupted);
  if (options.prompt_only) return finish(StopReason::steps);

  const auto prompt_end = static_cast<size_t>(session.position());
  Clock::time_point decode_start;
  while (true) {
    if (session.position() >= session.context_length()) return finish(StopReason::context);
    const int32_t token = sampler.sample(session.logits(), {session.tokens(), prompt_end});
    if (result.decode_forwards == 0) {
      decode_start = Clock::now();
    } else {
      result.decode_seconds = seconds_since(decode_start);
    }
    if (std::ranges::find(options.stop_ids, token) != options.stop_ids.end()) {
      return finish(StopReason::stop_token);
    }
    const bool goes_on = on_token(token);
    ++result.generated_tokens;
    if (!goes_on) return finish(StopReason::stop_string);
    if (options.steps > 0 && result.generated_tokens >= options.steps) {
      return finish(StopReason::steps);
    }
    // The token would be the last that fits: nothing can follow it.
    if (session.position() + 1 >= session.context_length()) return finish(StopReason::context);
    if (interrupted()) return finish(StopReason::interrupted);
    session.append(std::span(&token, 1));
    ++result.decode_forwards;
  }
}

}  // namespace runner
