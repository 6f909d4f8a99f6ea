// States in PyTorch: functions on handles, which exporter/lowbit/state.py calls. They are no operators:
// no graph holds them.

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/state/state.h"

namespace lowbit {
namespace {

using at::Tensor;

CacheType cache_type_of(c10::string_view name) {
  if (name == "float32") return CacheType::float32;
  if (name == "float16") return CacheType::float16;
  if (name == "int8") return CacheType::int8;
  TORCH_CHECK(name == "int4", "a cache is of float32, float16, int8 or int4, not ", name);
  return CacheType::int4;
}

struct Owned {
  std::mutex mutex;
  std::map<int64_t, std::unique_ptr<OwnedState>> states;
};
Owned& owned() {
  static auto* all = new Owned;  // as long as the process: the table of handles may end before
  return *all;
}

std::vector<float> floats(const Tensor& given, const char* what) {
  TORCH_CHECK(given.is_cpu() && given.dim() == 1 && given.scalar_type() == at::kFloat && given.is_contiguous(),
              what, " are contiguous float32 [N]");
  const auto* first = given.const_data_ptr<float>();
  return {first, first + given.numel()};
}

// `layers`: key/value heads, head width and rotary embedding of each; the others are of each rotary
// embedding, `query_factors` empty where queries have none.
StateLayout layout_of(at::IntArrayRef layers, at::TensorList frequencies, at::ArrayRef<double> factors,
                      at::TensorList query_factors, at::IntArrayRef query_spans) {
  TORCH_CHECK(layers.size() % 3 == 0, "each layer has three numbers");
  const size_t count = frequencies.size();
  TORCH_CHECK(factors.size() == count && query_factors.size() == count && query_spans.size() == count,
              "each rotary embedding has a factor, and factors of queries with their span");
  StateLayout layout;
  for (size_t i = 0; i < layers.size(); i += 3) {
    layout.layers.push_back({layers[i], layers[i + 1], layers[i + 2]});
  }
  for (size_t i = 0; i < count; ++i) {
    layout.ropes.push_back({.frequencies = floats(frequencies[i], "frequencies"),
                            .factor = static_cast<float>(factors[i]),
                            .query_factors = floats(query_factors[i], "factors of queries"),
                            .query_span = query_spans[i]});
  }
  return layout;
}

int64_t new_state(at::IntArrayRef layers, at::TensorList frequencies, at::ArrayRef<double> factors,
                  at::TensorList query_factors, at::IntArrayRef query_spans, int64_t context_length,
                  c10::string_view cache_type, int64_t sessions) {
  auto state = std::make_unique<OwnedState>(
      Library::pytorch, layout_of(layers, frequencies, factors, query_factors, query_spans),
      StateOptions{context_length, cache_type_of(cache_type), sessions});
  const int64_t handle = state->handle();
  const std::lock_guard lock(owned().mutex);
  owned().states.emplace(handle, std::move(state));
  return handle;
}

int64_t state_size(at::IntArrayRef layers, at::TensorList frequencies, at::ArrayRef<double> factors,
                   at::TensorList query_factors, at::IntArrayRef query_spans, int64_t context_length,
                   c10::string_view cache_type, int64_t sessions) {
  return state_bytes(layout_of(layers, frequencies, factors, query_factors, query_spans),
                     {context_length, cache_type_of(cache_type), sessions});
}

void drop_state(int64_t state) {
  const std::lock_guard lock(owned().mutex);
  if (owned().states.erase(state) == 0) find_state(state);  // says why there is none
}

// Python's threads come here without its lock: one at a time.
template <class F>
auto with_state(int64_t state, F f) {
  const std::lock_guard lock(owned().mutex);
  return f(*find_state(state));
}

void begin_forward(int64_t state, const Tensor& segments) {
  TORCH_CHECK(segments.is_cpu() && segments.dim() == 2 && segments.size(1) == 2 && segments.scalar_type() == at::kLong &&
                  segments.is_contiguous(),
              "segments are contiguous int64 [S, 2]");
  const std::span asked(segments.const_data_ptr<int64_t>(), static_cast<size_t>(segments.numel()));
  with_state(state, [&](State& s) { s.begin(asked); });
}

Tensor save_session(int64_t state, int64_t session) {
  const std::vector<uint8_t> bytes = with_state(state, [&](State& s) { return s.save(session); });
  Tensor saved = at::empty({std::ssize(bytes)}, at::kByte);
  if (!bytes.empty()) std::memcpy(saved.mutable_data_ptr(), bytes.data(), bytes.size());
  return saved;
}

int64_t restore_session(int64_t state, const Tensor& bytes, int64_t positions) {
  TORCH_CHECK(bytes.is_cpu() && bytes.scalar_type() == at::kByte && bytes.is_contiguous(), "saved bytes are uint8");
  const std::span saved(bytes.const_data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel()));
  return with_state(state, [&](State& s) { return s.restore(saved, positions); });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lowbit, m) {
  m.def("new_state(int[] layers, Tensor[] frequencies, float[] factors, Tensor[] query_factors, "
        "int[] query_spans, int context_length, str cache_type, int sessions) -> int", new_state);
  m.def("state_bytes(int[] layers, Tensor[] frequencies, float[] factors, Tensor[] query_factors, "
        "int[] query_spans, int context_length, str cache_type, int sessions) -> int", state_size);
  m.def("drop_state(int state) -> ()", drop_state);
  m.def("open_session(int state) -> int", [](int64_t state) {
    return with_state(state, [](State& s) { return s.open(); });
  });
  m.def("fork_session(int state, int session) -> int", [](int64_t state, int64_t session) {
    return with_state(state, [&](State& s) { return s.fork(session); });
  });
  m.def("drop_session(int state, int session) -> ()", [](int64_t state, int64_t session) {
    with_state(state, [&](State& s) { s.drop(session); });
  });
  m.def("rewind_session(int state, int session, int position) -> ()",
        [](int64_t state, int64_t session, int64_t position) {
          with_state(state, [&](State& s) { s.rewind(session, position); });
        });
  m.def("session_position(int state, int session) -> int", [](int64_t state, int64_t session) {
    return with_state(state, [&](State& s) { return s.position(session); });
  });
  m.def("begin_forward(int state, Tensor segments) -> ()", begin_forward);
  m.def("end_forward(int state) -> ()", [](int64_t state) {
    with_state(state, [](State& s) { s.end(); });
  });
  m.def("abandon_forward(int state) -> ()", [](int64_t state) {
    with_state(state, [](State& s) { s.abandon(); });
  });
  m.def("save_session(int state, int session) -> Tensor", save_session);
  m.def("restore_session(int state, Tensor bytes, int positions) -> int", restore_session);
}

}  // namespace lowbit
