#include "app/tokenize_lines.h"

#include <istream>
#include <string>

#include "system/output.h"

namespace runner {

void tokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::FILE* out) {
  for (std::string text; std::getline(in, text);) {
    std::string line = "[";
    for (const int32_t id : tokenizer.encode(text, false, Tokenizer::Special::parse)) {
      if (line.size() > 1) line += ", ";
      line += std::to_string(id);
    }
    write_text(out, line + "]\n");
  }
}

}  // namespace runner
