#pragma once

#include <stdexcept>
#include <string>

namespace runner {

// What the user must read: one line that says what is wrong and how to mend it. Exit status 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Ends a line that says that a model's output is not a number: causes and the remedy.
inline constexpr const char* kNotNumbers =
    ": a weight is broken, or numbers are beyond what the artifact's dtype holds; `python -m exporter verify` "
    "names the layer, and --dtype fp32 has the widest range";

// What an operator said while a model ran, with what to do: to export the model again, unless its words
// name a flag that helps.
inline std::string with_remedy(const std::string& said) {
  return said.find(" --") == std::string::npos ? said + "; export the model again" : said;
}

// The command line itself is wrong. Exit status 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

}  // namespace runner
