#pragma once

#include <stdexcept>

namespace runner {

// What the user must read: one line that says what is wrong and how to mend it. Exit status 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The command line itself is wrong. Exit status 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

}  // namespace runner
