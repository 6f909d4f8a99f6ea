#include "kernels/state/handles.h"

#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/state/layout.h"

namespace lowbit {
namespace {

// A handle: the library's number, the generation of a place in its table, and the place.
constexpr int kPlaceBits = 16, kGenerationBits = 40;
constexpr int64_t kMostPlaces = int64_t{1} << kPlaceBits;

struct Handle {
  int64_t library, generation, place;

  static Handle of(int64_t number) {
    return {number >> (kPlaceBits + kGenerationBits),
            number >> kPlaceBits & ((int64_t{1} << kGenerationBits) - 1), number & (kMostPlaces - 1)};
  }
  int64_t number() const {
    return ((library << kGenerationBits) + generation) * kMostPlaces + place;
  }
};

const char* name_of(int64_t library) {
  switch (library) {
    case static_cast<int64_t>(Library::executorch): return "the ExecuTorch runner";
    case static_cast<int64_t>(Library::aoti): return "the AOTInductor runner";
    case static_cast<int64_t>(Library::pytorch): return "PyTorch's library";
    default: return nullptr;
  }
}

struct Place {
  int64_t generation = 0;
  std::shared_ptr<State> state;
};

struct Table {
  std::mutex mutex;
  std::optional<Library> library;
  std::vector<Place> places;
};

Table& table() {
  static auto* the_table = new Table;  // as long as the process: states may end in any order
  return *the_table;
}

std::string words_for(const Handle& handle, std::optional<Library> mine, bool dropped) {
  const char* owner = name_of(handle.library);
  if (owner == nullptr) return "no library makes such a number";
  if (!mine || static_cast<int64_t>(*mine) != handle.library) {
    return std::string("it is of ") + owner + ", and a state is of the library that made it";
  }
  return dropped ? "that state was dropped" : "no such state was made";
}

}  // namespace

int64_t add_state(Library library, std::shared_ptr<State> state) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  t.library = library;
  size_t place = 0;
  while (place < t.places.size() && t.places[place].state != nullptr) ++place;
  if (place == kMostPlaces) {
    throw StateError("there are " + std::to_string(place) + " states already; drop one");
  }
  if (place == t.places.size()) t.places.emplace_back();
  t.places[place] = {t.places[place].generation + 1, std::move(state)};
  return Handle{static_cast<int64_t>(library), t.places[place].generation,
                static_cast<int64_t>(place)}
      .number();
}

void remove_state(int64_t handle) {
  Table& t = table();
  std::shared_ptr<State> dropped;  // goes after the lock
  const std::lock_guard lock(t.mutex);
  dropped = std::move(t.places[static_cast<size_t>(Handle::of(handle).place)].state);
}

std::shared_ptr<State> find_state(int64_t handle) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  const Handle wanted = Handle::of(handle);
  const auto place = static_cast<size_t>(wanted.place);
  bool dropped = false;
  if (t.library && wanted.library == static_cast<int64_t>(*t.library) && place < t.places.size()) {
    const Place& there = t.places[place];
    if (there.generation == wanted.generation && there.state != nullptr) return there.state;
    dropped = wanted.generation > 0 && wanted.generation <= there.generation;
  }
  throw StateError("there is no state " + std::to_string(handle) + ": " +
                   words_for(wanted, t.library, dropped));
}

}  // namespace lowbit
