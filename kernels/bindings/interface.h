#pragma once

// What a program and its artifacts know of the operators without calling one.

#include "kernels/lowbit.h"

namespace lowbit {

// Of the operators' arguments and of what they mean. An artifact holds the number that it was made
// for, and only a runner of the same number runs it.
inline constexpr int kInterfaceVersion = 3;

// The host of this program; each program that links the bindings defines it.
Host& current_host();

}  // namespace lowbit
