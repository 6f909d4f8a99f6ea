#include "app/stats.h"

#include <nlohmann/json.hpp>

#include "system/peak_memory.h"
#include "tests/cpp/check.h"

using namespace runner;

TEST(statistics_hold_the_keys_of_the_design) {
  Stats stats;
  stats.load_seconds = 0.5;
  stats.threads = 2;
  stats.isa = "stock";
  auto object = nlohmann::json::parse(stats_json(stats, 1000));
  CHECK(object["decode_tokens_per_second"].is_null());
  CHECK(object["first_token_seconds"].is_null());
  stats.note_token();
  stats.add({.prompt_tokens = 10,
             .generated_tokens = 5,
             .decode_forwards = 4,
             .prefill_seconds = 2,
             .decode_seconds = 0.5});
  object = nlohmann::json::parse(stats_json(stats, 1000));
  CHECK_EQ(object.size(), 9u);
  CHECK(object["first_token_seconds"].get<double>() >= 0);
  CHECK_EQ(object["load_seconds"].get<double>(), 0.5);
  CHECK_EQ(object["prompt_tokens"].get<int>(), 10);
  CHECK_EQ(object["prefill_tokens_per_second"].get<double>(), 5.0);
  CHECK_EQ(object["generated_tokens"].get<int>(), 5);
  CHECK_EQ(object["decode_tokens_per_second"].get<double>(), 8.0);
  CHECK_EQ(object["peak_rss_bytes"].get<int>(), 1000);
  CHECK_EQ(object["threads"].get<int>(), 2);
  CHECK_EQ(object["isa"].get<std::string>(), "stock");
  CHECK(peak_rss_bytes() > 1'000'000);
  CHECK(stats_line(stats, 5'000'000).find("generated 5 tokens at 8.0/s") != std::string::npos);
}

CHECK_MAIN()
