#pragma once

// The table of states: a graph and its operators name a state by a number, which is looked up and never
// taken for an address.

#include <cstdint>
#include <memory>

namespace lowbit {

class State;

// Who has a table of its own: each library that the operators are linked into.
enum class Library { executorch = 1, aoti = 2, pytorch = 3 };

// Adds a state to this library's table; returns its handle, which is never given again. Any thread may
// call these.
int64_t add_state(Library library, std::shared_ptr<State> state);
void remove_state(int64_t handle);

// The state of that handle. Throws StateError that says what the number is, if not a handle of this
// table.
std::shared_ptr<State> find_state(int64_t handle);

}  // namespace lowbit
