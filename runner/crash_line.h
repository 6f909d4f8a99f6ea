#pragma once

#include <string_view>

namespace runner {

// What a crash says, whenever one comes: "PROGRAM: SIGNAL while DOING; REMEDY".
struct CrashWords {
  std::string_view program;
  std::string_view needs;  // what the code needs of a CPU, and the remedy where it lacks that
};

// From here on a crash, of our code, of a framework's or of a model's compiled one, writes one line on
// standard error that says which signal ended the program while doing what, and then ends it by that
// signal, as if nothing had caught it: a core is left where the system keeps them, and the status is the
// signal's. Under a sanitizer, which reports crashes itself, does nothing.
void explain_crashes(const CrashWords& words);

// What the program is doing from here on, such as "loading m.pte".
void set_crash_activity(std::string_view doing);

}  // namespace runner
