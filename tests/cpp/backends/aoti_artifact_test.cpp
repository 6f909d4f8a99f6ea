// Which of an artifact's targets a CPU runs, and where its weights lie.

#include "backends/aoti_artifact.h"

#include "system/error.h"
#include "tests/cpp/check.h"

using namespace runner;

namespace {

const std::set<std::string> kOld = {"sse2"}, kNew = {"sse2", "avx2", "fma"};

AotiArtifact artifact() {
  AotiArtifact result;
  result.path = "m.pt2";
  result.metadata.targets = {{"x86-64-v3", "x86_64", {"avx2", "fma"}, "model"},
                             {"x86-64", "x86_64", {}, "model-x86-64"},
                             {"aarch64", "aarch64", {}, "model-aarch64"}};
  return result;
}

}  // namespace

TEST(the_target_that_asks_for_most_and_runs) {
  const AotiArtifact a = artifact();
  CHECK_EQ(best_target(a, "x86_64", kNew).name, "x86-64-v3");
  CHECK_EQ(best_target(a, "x86_64", kOld).name, "x86-64");
  CHECK_EQ(best_target(a, "aarch64", kOld).name, "aarch64");
}

TEST(the_least_where_the_system_does_not_say) {
  CHECK_EQ(best_target(artifact(), "x86_64", std::nullopt).name, "x86-64");
}

TEST(what_is_missing_is_named) {
  AotiArtifact a = artifact();
  CHECK_THROWS(Error, best_target(a, "riscv64", kOld), "m.pt2", "riscv64", "a machine of x86_64",
               "--target");
  a.metadata.targets.resize(1);
  CHECK_THROWS(Error, best_target(a, "x86_64", kOld), "x86-64-v3 needs avx2 fma");
}

TEST(weights_lie_inside_and_aligned) {
  alignas(64) std::byte blob[256] = {};
  const auto place = [&](uint64_t offset, uint64_t bytes) {
    return place_of("m.pt2", {"w", "uint8", {}, offset, bytes}, blob);
  };
  CHECK(place(128, 128).data() == blob + 128);
  CHECK_THROWS(Error, place(128, 129), "m.pt2", "w", "beyond the end");
  CHECK_THROWS(Error, place(257, 0), "beyond the end");
  CHECK_THROWS(Error, place(~uint64_t{0}, 2), "beyond the end");
  CHECK_THROWS(Error, place(32, 1), "uneven place");
}

CHECK_MAIN()
