#pragma once

#include <functional>
#include <string>

namespace runner {

// Reads a file that is not in memory into the system's cache, in order: a slow disk or card gives it several
// times as fast as by pages, where a model happens to look first. Does nothing where most of the file is there,
// where less memory is left than it needs, and where the system tells neither. `go_on` is told the part that
// is read, from 0 to 1, about every 8 MB; false ends it. What cannot be read is left to who needs it.
void read_ahead(const std::string& path, const std::function<bool(double part)>& go_on);

// The part of a file that is in the system's cache, from 0 to 1; 1 where the system does not tell.
double part_in_memory(const std::string& path);

}  // namespace runner
