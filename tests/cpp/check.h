#pragma once

// The smallest test harness that says what failed and where: TEST(name) { CHECK(...); ... }

#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace check {

struct Case {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* name, std::function<void()> body) {
    cases().push_back({name, std::move(body)});
  }
};

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::cerr << file << ":" << line << ": " << what << "\n";
}

template <typename T>
std::string show(const T& value) {
  std::ostringstream text;
  if constexpr (requires { text << value; }) {
    text << value;
  } else if constexpr (requires { value.begin(); }) {
    text << "[";
    for (const auto& item : value) text << show(item) << " ";
    text << "]";
  } else {
    text << "?";
  }
  return text.str();
}

template <typename A, typename B>
void equal(const char* file, int line, const char* what, const A& a, const B& b) {
  if (!(a == b)) fail(file, line, std::string(what) + ": " + show(a) + " is not " + show(b));
}

// `body` must throw an E whose message is one line that holds all of `parts`.
template <typename E>
void throws(const char* file, int line, const std::function<void()>& body,
            const std::vector<std::string>& parts) {
  try {
    body();
  } catch (const E& error) {
    const std::string message = error.what();
    if (message.find('\n') != std::string::npos) fail(file, line, "two lines: " + message);
    for (const std::string& part : parts) {
      if (message.find(part) == std::string::npos) {
        fail(file, line, "no '" + part + "' in: " + message);
      }
    }
    return;
  } catch (const std::exception& error) {
    return fail(file, line, std::string("another exception: ") + error.what());
  }
  fail(file, line, "nothing was thrown");
}

inline int run_all() {
  for (const Case& test : cases()) {
    const int before = failures();
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("exception: ") + error.what());
    }
    std::cout << (failures() == before ? "ok     " : "FAILED ") << test.name << "\n";
  }
  return failures() == 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                              \
  static void name();                                           \
  static const check::Register register_##name(#name, &(name)); \
  static void name()
#define CHECK(condition) ((condition) ? void() : check::fail(__FILE__, __LINE__, #condition))
#define CHECK_EQ(a, b) check::equal(__FILE__, __LINE__, #a " == " #b, (a), (b))
#define CHECK_THROWS(E, body, ...) \
  check::throws<E>(__FILE__, __LINE__, [&] { (void)(body); }, {__VA_ARGS__})
#define CHECK_MAIN() \
  int main() { return check::run_all(); }
