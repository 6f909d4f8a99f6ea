#include "app/self_test_report.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "app/json_line.h"
#include "app/words.h"
#include "text/printable.h"

namespace runner {

std::string self_test_lines(const SelfTest& test, const TestedOn& machine) {
  const bool passed = test.wrong.empty();
  std::string text = printable(machine.model_path) + ": self-test " + (passed ? "passed" : "FAILED") + "\n";
  for (const std::string& line : test.wrong) text += "  wrong: " + printable(line) + "\n";
  text += "  token ids of " + counted(test.texts, "text") + " and " +
          counted(test.conversations, "conversation") + " compared with the exporter's\n";
  text += test.prompts == 0
              ? "  logits not compared: those of stock operators differ between machines\n"
              : "  logits of " + counted(test.positions, "position") + " in " +
                    counted(test.prompts, "prompt") + " compared bit by bit\n";
  text += "  " + machine.isa + ", " + counted(machine.threads, "thread") + ": prompt " +
          fixed(test.prefill_tokens_per_second, 1) + " tokens/s, text " +
          fixed(test.decode_tokens_per_second, 1) + " tokens/s";
  if (test.weight_bytes_per_second > 0) {
    text += ", " + fixed(test.weight_bytes_per_second / 1e9, 1) + " GB/s of weights";
  }
  return text + ", peak memory " + fixed(static_cast<double>(machine.peak_rss) / 1e6, 0) + " MB\n";
}

std::string self_test_json(const SelfTest& test, const TestedOn& machine) {
  const double bytes = test.weight_bytes_per_second;
  const std::pair<const char*, nlohmann::json> fields[] = {
      {"passed", test.wrong.empty()},
      {"wrong", test.wrong},
      {"texts", test.texts},
      {"conversations", test.conversations},
      {"prompts", test.prompts},
      {"positions", test.positions},
      {"isa", machine.isa},
      {"threads", machine.threads},
      {"prefill_tokens_per_second", test.prefill_tokens_per_second},
      {"decode_tokens_per_second", test.decode_tokens_per_second},
      {"weight_bytes_per_second", bytes > 0 ? nlohmann::json(bytes) : nlohmann::json(nullptr)},
      {"peak_rss_bytes", machine.peak_rss},
  };
  return json_line(fields) + "\n";
}

}  // namespace runner
