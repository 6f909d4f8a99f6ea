#include "text/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "system/error.h"

namespace runner {
namespace {

template <auto release>
struct Release {
  template <class T>
  void operator()(T* object) const {
    release(object);
  }
};
using MatchData = std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Release<pcre2_match_context_free>>;

// How many steps a match may take: PCRE2's own bound, or so many for each byte of the text, some of
// which a match needs that goes through all of it. Memory is bound by PCRE2's depth, which stays.
constexpr size_t kSteps = 10'000'000, kStepsOfByte = 16;

std::string message_of(int code) {
  char text[160] = "";
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
  return text;
}

// PCRE2's \s has U+180E, which is no white space since Unicode 6.3; the references' \s is the
// property White_Space.
std::string with_unicode_space(std::string_view pattern) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      out += pattern[i];
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      out += "\\p{White_Space}";
    } else if (escaped == 'S') {
      out += "\\P{White_Space}";
    } else {
      out += {'\\', escaped};
    }
  }
  return out;
}

}  // namespace

struct SplitPattern::Code {
  std::unique_ptr<pcre2_code, Release<pcre2_code_free>> code;
};

SplitPattern::SplitPattern(std::string_view pattern, SplitKind kind)
    : code_(std::make_unique<Code>()), kind_(kind) {
  const std::string text = with_unicode_space(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                  nullptr));
  if (!code_->code) {
    throw Error("the tokenizer's split pattern does not compile: " + message_of(error) +
                "; use another tokenizer file");
  }
}

SplitPattern::~SplitPattern() = default;
SplitPattern::SplitPattern(SplitPattern&&) noexcept = default;

std::vector<std::string_view> SplitPattern::matches(std::string_view text) const {
  const pcre2_code* code = code_->code.get();
  const MatchData data(pcre2_match_data_create_from_pattern(code, nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  if (!data || !context) throw std::bad_alloc();
  const size_t steps = std::clamp(text.size(), kSteps / kStepsOfByte, UINT32_MAX / kStepsOfByte);
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(steps * kStepsOfByte));
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());

  std::vector<std::string_view> found;
  for (size_t from = 0; from < text.size();) {
    const int result = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                                   data.get(), context.get());
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) {
      throw Error("the text cannot be split into words: " + message_of(result) + "; give a shorter text");
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    // \K could set the start behind; nothing useful is cut then.
    if (range[0] < from || range[1] <= range[0]) break;
    found.push_back(text.substr(range[0], range[1] - range[0]));
    from = range[1];
  }
  return found;
}

std::vector<std::string_view> SplitPattern::split(const std::vector<std::string_view>& texts) const {
  std::vector<std::string_view> parts;
  for (const std::string_view text : texts) {
    const char* done = text.data();
    const auto pass = [&](const char* to) {
      if (done < to && kind_ != SplitKind::matches) parts.emplace_back(done, static_cast<size_t>(to - done));
    };
    for (const std::string_view match : matches(text)) {
      pass(match.data());
      if (kind_ != SplitKind::between) parts.push_back(match);
      done = match.data() + match.size();
    }
    pass(text.data() + text.size());
  }
  return parts;
}

bool SplitPattern::matches_nothing() const {
  uint32_t found = 0;
  pcre2_pattern_info(code_->code.get(), PCRE2_INFO_MATCHEMPTY, &found);
  return found != 0;
}

bool SplitPattern::begins(std::string_view text) const {
  const pcre2_code* code = code_->code.get();
  const MatchData data(pcre2_match_data_create_from_pattern(code, nullptr));
  if (!data) throw std::bad_alloc();
  return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                     PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, data.get(), nullptr) >= 0;
}

}  // namespace runner
