#pragma once

#include <string_view>

namespace runner {

// Whether this is built with a sanitizer that reports crashes itself: of addresses, threads or memory.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)  // GCC's words
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)  // Clang's
inline constexpr bool kSanitized = __has_feature(address_sanitizer) ||
                                   __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer);
#else
inline constexpr bool kSanitized = false;
#endif

// What a crash says, whenever one comes: "PROGRAM: SIGNAL while DOING; REMEDY".
struct CrashWords {
  std::string_view program;
  std::string_view needs;  // what the code needs of a CPU, and the remedy where it lacks that
};

// From here on a crash, of our code, of a framework's or of a model's compiled one, writes one line on
// standard error that says which signal ended the program while doing what, and then ends it by that
// signal, as if nothing had caught it: a core is left where the system keeps them, and the status is the
// signal's. Does nothing where kSanitized.
void explain_crashes(const CrashWords& words);

// What the program is doing from here on, such as "loading m.pte".
void set_crash_activity(std::string_view doing);

}  // namespace runner
