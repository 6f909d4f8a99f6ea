#include "app/stats.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "app/json_line.h"
#include "app/words.h"

namespace runner {
namespace {

std::optional<double> rate(int64_t count, double seconds) {
  if (count <= 0 || seconds <= 0) return std::nullopt;
  return static_cast<double>(count) / seconds;
}

nlohmann::json number_or_null(std::optional<double> value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

std::optional<double> first_token(const Stats& stats) {
  if (stats.first_token_seconds < 0) return std::nullopt;
  return stats.first_token_seconds;
}

std::string fixed_or_dash(std::optional<double> value, int digits) {
  return value ? fixed(*value, digits) : "-";
}

}  // namespace

void Stats::note_token() {
  if (first_token_seconds >= 0) return;
  first_token_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Stats::add(const GenerateResult& result) {
  prompt_tokens += result.prompt_tokens;
  prefill_seconds += result.prefill_seconds;
  generated_tokens += result.generated_tokens;
  decode_forwards += result.decode_forwards;
  decode_seconds += result.decode_seconds;
}

std::string stats_line(const Stats& s, int64_t peak_rss) {
  return "load " + fixed(s.load_seconds, 2) + " s, first token " + fixed_or_dash(first_token(s), 2) +
         " s, prompt " + std::to_string(s.prompt_tokens) + " tokens at " +
         fixed_or_dash(rate(s.prompt_tokens, s.prefill_seconds), 1) + "/s, generated " +
         std::to_string(s.generated_tokens) + " tokens at " +
         fixed_or_dash(rate(s.decode_forwards, s.decode_seconds), 1) + "/s, peak memory " +
         fixed(static_cast<double>(peak_rss) / 1e6, 0) + " MB, " + std::to_string(s.threads) +
         " threads, " + s.isa;
}

std::string stats_json(const Stats& s, int64_t peak_rss) {
  const std::pair<const char*, nlohmann::json> fields[] = {
      {"load_seconds", s.load_seconds},
      {"first_token_seconds", number_or_null(first_token(s))},
      {"prompt_tokens", s.prompt_tokens},
      {"prefill_tokens_per_second", number_or_null(rate(s.prompt_tokens, s.prefill_seconds))},
      {"generated_tokens", s.generated_tokens},
      {"decode_tokens_per_second", number_or_null(rate(s.decode_forwards, s.decode_seconds))},
      {"peak_rss_bytes", peak_rss},
      {"threads", s.threads},
      {"isa", s.isa},
  };
  return json_line(fields);
}

}  // namespace runner
