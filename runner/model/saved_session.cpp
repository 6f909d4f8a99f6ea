#include "model/saved_session.h"

#include <cstring>
#include <utility>
#include <vector>

#include "model/cache_types.h"
#include "model/metadata_reader.h"
#include "system/crc32.h"
#include "system/error.h"

namespace runner {

// Makes a session of what it was saved as.
class SavedSession {
 public:
  static Session make(Model& model, std::shared_ptr<OwnedState> state, std::vector<int32_t> tokens,
                      std::string_view caches) {
    const std::span bytes(reinterpret_cast<const uint8_t*>(caches.data()), caches.size());
    const SessionId id = (*state)->restore(bytes, std::ssize(tokens));
    Session session(model, std::move(state), 0, id);
    session.tokens_ = std::move(tokens);
    return session;
  }
};

namespace {

// The file: the magic, then the length and the bytes of each part, little-endian; then the sum of all
// that. Parts: weights, layers, cache type, tokens (int32 each), caches (State::save).
constexpr std::string_view kMagic = "LMSESS1\n";
constexpr size_t kSumBytes = 4;

void put(std::string& to, uint64_t number, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) to += static_cast<char>(number >> 8 * i & 0xff);
}

uint64_t number_at(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

void put_part(std::string& to, std::string_view part) {
  put(to, part.size(), 8);
  to += part;
}

uint32_t sum_of(std::string_view bytes) {
  return crc32_of(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

[[noreturn]] void damaged(const char* how) {
  throw Error(std::string("the saved session is damaged: ") + how + "; save it again");
}

std::string_view take(std::string_view& bytes, size_t n) {
  if (n > bytes.size()) damaged("it ends too early");
  const auto part = bytes.substr(0, n);
  bytes.remove_prefix(n);
  return part;
}

std::string_view take_part(std::string_view& bytes) {
  return take(bytes, number_at(take(bytes, 8)));
}

void check_same(const std::string& what, std::string_view saved, std::string_view here) {
  if (saved == here) return;
  throw Error("the saved session is of " + what +
              "; load the model and the type of cache that it was saved with, or begin anew");
}

// The layers' description, and which frequencies a state of this context has where it has a choice.
std::string layers_of(const Metadata& m, const lowbit::State& state) {
  std::string layers = m.raw.at(keys::kState);
  const int64_t context = state.options().context_length;
  for (const lowbit::Rope& rope : m.state.ropes) {
    if (rope.is_long(context)) layers += " long";
  }
  return layers;
}

std::vector<int32_t> tokens_of(std::string_view part, const Metadata& m) {
  if (part.size() % 4 != 0) damaged("its tokens are no whole numbers");
  std::vector<int32_t> tokens(part.size() / 4);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(number_at(part.substr(4 * i, 4)));
  }
  check_vocabulary(m, tokens);
  return tokens;
}

}  // namespace

std::string save_session(const Session& session) {
  const lowbit::State& state = *session.state();
  const std::vector<uint8_t> caches = state.save(session.id());
  const Metadata& m = session.model().metadata();
  std::string bytes(kMagic), tokens;
  for (const int32_t token : session.tokens()) put(tokens, static_cast<uint32_t>(token), 4);
  bytes.reserve(caches.size() + 4 * session.tokens().size() + m.raw.at(keys::kState).size() + 512);
  put_part(bytes, m.model_digest);
  put_part(bytes, layers_of(m, state));
  put_part(bytes, name_of(state.options().cache_type));
  put_part(bytes, tokens);
  put_part(bytes, {reinterpret_cast<const char*>(caches.data()), caches.size()});
  put(bytes, sum_of(bytes), kSumBytes);
  return bytes;
}

Session load_session(Model& model, std::shared_ptr<OwnedState> state, std::string_view bytes) {
  const Metadata& m = model.metadata();
  if (!bytes.starts_with(kMagic)) throw Error("these bytes are no saved session; save one first");
  if (bytes.size() < kMagic.size() + kSumBytes) damaged("it ends too early");
  const std::string_view sum = bytes.substr(bytes.size() - kSumBytes);
  bytes.remove_suffix(kSumBytes);
  if (number_at(sum) != sum_of(bytes)) damaged("its sum is wrong");
  bytes.remove_prefix(kMagic.size());
  check_same("a model of other weights", take_part(bytes), m.model_digest);
  check_same("a model of other layers, or a context of another kind", take_part(bytes),
             m.lowbit ? layers_of(m, **state) : "");
  const std::string_view type = take_part(bytes), here = name_of((*state)->options().cache_type);
  check_same("a " + shortened(std::string(type)) + " cache, and this one is of " + std::string(here), type, here);
  std::vector<int32_t> tokens = tokens_of(take_part(bytes), m);
  const std::string_view caches = take_part(bytes);
  if (!bytes.empty()) damaged("something follows its end");
  return SavedSession::make(model, std::move(state), std::move(tokens), caches);
}

}  // namespace runner
