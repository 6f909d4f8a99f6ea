#include "model/state_metadata.h"

#include <cmath>

#include "model/cache_types.h"

namespace runner {
namespace {

constexpr const char* kWanted = "what a state keeps of each layer";

// Numbers from `least` on, at most `most` of them.
std::vector<float> read_numbers(const json& list, int64_t most, float least, auto bad) {
  if (!list.is_array() || std::ssize(list) > most) bad();
  std::vector<float> numbers;
  for (const json& item : list) {
    if (!item.is_number()) bad();
    numbers.push_back(item.get<float>());
    if (!std::isfinite(numbers.back()) || numbers.back() < least) bad();
  }
  return numbers;
}

std::vector<float> read_frequencies(const json& list, auto bad) {
  return read_numbers(list, lowbit::kMaxHeadDim / 2, 0, bad);
}

int64_t read_positions(const json& item, auto bad) {
  constexpr auto kMost = static_cast<uint64_t>(lowbit::kMostContext);
  if (!item.is_number_unsigned() || item.get<uint64_t>() > kMost) bad();
  return item.get<int64_t>();
}

// A list of frequencies, or an object with what a rotary embedding has beside them.
lowbit::Rope read_rope(const json& item, auto bad) {
  if (!item.is_object()) return {read_frequencies(item, bad)};
  lowbit::Rope rope{read_frequencies(child(item, "frequencies", bad), bad)};
  const json& factor = child(item, "factor", bad);
  if (!factor.is_number()) bad();
  rope.factor = factor.get<float>();
  if (!std::isfinite(rope.factor) || rope.factor <= 0) bad();
  if (item.contains("short_context")) {
    rope.short_context = read_positions(item["short_context"], bad);
    rope.long_frequencies = read_frequencies(child(item, "long_frequencies", bad), bad);
  }
  if (item.contains("query_factors")) {
    rope.query_factors = read_numbers(item["query_factors"], lowbit::kMostContext, 1, bad);
    rope.query_span = read_positions(child(item, "query_span", bad), bad);
  }
  return rope;
}

lowbit::LayerLayout read_layer(const json& item, auto bad) {
  if (!item.is_object()) bad();
  const auto number = [&](const char* name, int64_t least) {
    const json& value = child(item, name, bad);
    constexpr auto kMost = static_cast<uint64_t>(lowbit::kMostContext);
    if (!value.is_number_integer() || value.get<int64_t>() < least) bad();
    if (value.is_number_unsigned() && value.get<uint64_t>() > kMost) bad();
    return value.get<int64_t>();
  };
  return {number("kv_heads", 1), number("head_dim", 1), number("rope", lowbit::kNoRope)};
}

}  // namespace

void read_state(const MetadataReader& in, Metadata& m) {
  const auto bad = [&] { in.bad(keys::kState, kWanted); };
  const json object = in.parsed(keys::kState, json::value_t::object, kWanted);
  const json &layers = child(object, "layers", bad), &ropes = child(object, "frequencies", bad);
  if (!layers.is_array() || !ropes.is_array()) bad();
  if (std::ssize(layers) != m.n_layers || ropes.size() > layers.size()) bad();
  for (const json& item : layers) m.state.layers.push_back(read_layer(item, bad));
  for (const json& item : ropes) m.state.ropes.push_back(read_rope(item, bad));
  m.cache_dtype = in.one_of(keys::kCacheDtype, {"float32", "float16", "int8", "int4"});
  m.longest_context = in.integer(keys::kLongestContext, m.context_length, lowbit::kMostContext);
  m.model_digest = in.text(keys::kModelDigest);
  m.max_segments = in.integer(keys::kMaxSegments, 1, lowbit::kMostSessions);
  try {
    check_state(m.state, {m.longest_context, *cache_type_of(m.cache_dtype), 1});
  } catch (const lowbit::StateError& error) {
    in.fail(std::string("metadata '") + keys::kState + "': " + error.what());
  }
}

}  // namespace runner
