// Times of the kernels beside the machine's limits, measured in the same run:
//   kernel_bench [--threads N] [--bits B] [--group G] [--int8-scales] [--shapes FILE]
//                [--json] [--bandwidth] [--tokens N]...
// For each shape, with integer zero points as `q4` has them, or int8 scales and none: one token
// (GB/s of weights against the read bandwidth) and 512 tokens (GMAC/s against dot-product
// instructions back to back, which AMX can exceed). With --tokens instead of the latter: N tokens,
// in turns with one token, as a multiple of its time.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "decode/speed.h"
#include "kernels/isa.h"
#include "system/cpu_count.h"
#include "system/thread_pool.h"

namespace {

using Clock = std::chrono::steady_clock;
using runner::ThreadPool;

struct Options {
  int threads = 0;
  uint32_t bits = 4, group = 32;
  std::string shapes = "kernels/bench/shapes.txt";
  bool int8_scales = false, json = false, bandwidth_only = false;
  std::vector<int64_t> tokens;
};

struct Shape {
  std::string name;
  int64_t rows, columns;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The median of several runs, each of at least 20 ms.
template <class F>
double median_seconds(F f) {
  f();
  std::vector<double> times;
  for (int run = 0; run < 5; ++run) {
    const auto start = Clock::now();
    int64_t calls = 0;
    do {
      f();
      ++calls;
    } while (seconds_since(start) < 0.02);
    times.push_back(seconds_since(start) / static_cast<double>(calls));
  }
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  return times[2];
}

template <class F>
void parallel(ThreadPool& pool, int64_t n, F f) {
  pool.parallel_for(
      n, 1, [](void* context, int64_t a, int64_t b) { (*static_cast<F*>(context))(a, b); }, &f);
}

double read_bandwidth(ThreadPool& pool, const std::vector<uint8_t>& memory) {
  const double seconds = median_seconds([&] { runner::read_all(pool, memory); });
  return static_cast<double>(memory.size()) / seconds / 1e9;
}

double dot_peak(ThreadPool& pool) {
  constexpr int64_t kRounds = 200000;
  const int64_t parts = 8 * pool.threads();
  std::vector<int64_t> counts(static_cast<size_t>(parts));
  const double seconds = median_seconds([&] {
    parallel(pool, parts, [&](int64_t begin, int64_t end) {
      int32_t sink = 1;
      for (int64_t p = begin; p < end; ++p) counts[p] = lowbit::isa().dot_peak(kRounds, &sink);
      volatile int32_t keep = sink;
      (void)keep;
    });
  });
  return static_cast<double>(parts * counts[0]) / seconds / 1e9;
}

std::vector<Shape> read_shapes(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    std::fprintf(stderr, "error: cannot read %s; name the shapes with --shapes FILE\n", path.c_str());
    std::exit(1);
  }
  std::vector<Shape> shapes;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    Shape s;
    if (line.starts_with('#') || !(words >> s.name >> s.rows >> s.columns)) continue;
    shapes.push_back(s);
  }
  return shapes;
}

std::vector<uint8_t> random_weight(const lowbit::Format& format, const Shape& shape) {
  std::mt19937 random(1);
  std::vector<uint8_t> packed(lowbit::packed_size(format, shape.rows, shape.columns));
  const int64_t groups = (shape.columns + format.group_size - 1) / format.group_size;
  std::vector<uint8_t> values(static_cast<size_t>(shape.rows * shape.columns));
  for (auto& v : values) v = static_cast<uint8_t>(random() & ((1u << format.bits) - 1));
  std::vector<float> scales(static_cast<size_t>(shape.rows * groups));
  for (auto& s : scales) s = static_cast<float>(random() % 1000) * 1e-5f;
  std::vector<float> zeros(scales.size());
  for (auto& z : zeros) z = static_cast<float>(random() & ((1u << format.bits) - 1));
  lowbit::pack_integer(format, shape.rows, shape.columns, values.data(), scales.data(),
                       format.zeros == lowbit::Zeros::none ? nullptr : zeros.data(), packed.data());
  return packed;
}

// One token's time, and that of each number of tokens as a multiple: medians of alternating runs,
// since the machine's speed changes from one second to the next.
template <class F>
void bench_chunks(const Options& o, const Shape& shape, F run) {
  constexpr int kRounds = 15;
  std::vector<int64_t> counts = o.tokens;
  counts.insert(counts.begin(), 1);
  std::vector<std::vector<double>> times(counts.size());
  for (int round = 0; round <= kRounds; ++round) {
    for (size_t i = 0; i < counts.size(); ++i) {
      const auto start = Clock::now();
      int64_t calls = 0;
      do {
        run(counts[i]);
        ++calls;
      } while (seconds_since(start) < 0.01);
      if (round > 0) times[i].push_back(seconds_since(start) / static_cast<double>(calls));
    }
  }
  for (auto& t : times) std::nth_element(t.begin(), t.begin() + kRounds / 2, t.end());
  const double one = times[0][kRounds / 2];
  const char* start = o.json ? "{\"shape\": \"%s\", \"one_token_us\": %.1f" : "%-20s %8.1f us";
  const char* each = o.json ? ", \"%lld\": %.3f" : " %4lld: %.2f x";
  std::printf(start, shape.name.c_str(), one * 1e6);
  for (size_t i = 1; i < counts.size(); ++i) {
    std::printf(each, static_cast<long long>(counts[i]), times[i][kRounds / 2] / one);
  }
  std::printf(o.json ? "}\n" : "\n");
  std::fflush(stdout);
}

void bench_shape(ThreadPool& pool, const Options& o, const Shape& shape, double bandwidth,
                 double peak) {
  const lowbit::Format format{lowbit::Kind::integer, o.bits, o.group,
                              o.int8_scales ? lowbit::Zeros::none : lowbit::Zeros::integer,
                              o.int8_scales ? lowbit::Scales::int8 : lowbit::Scales::float16};
  const std::vector<uint8_t> one = random_weight(format, shape);
  // Copies beyond any cache, taken in turn: decoding meets each weight once a token.
  const size_t copies = std::max<size_t>(1, (size_t{800} << 20) / one.size());
  std::vector<std::vector<uint8_t>> weights(copies, one);
  std::vector<lowbit::PackedWeight> views(copies);
  for (size_t i = 0; i < copies; ++i) {
    if (!lowbit::view(weights[i].data(), weights[i].size(), &views[i]).empty()) std::abort();
  }
  constexpr int64_t kTokens = 512;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(kTokens * shape.columns));
  for (auto& v : x) v = normal(random);
  std::vector<float> out(static_cast<size_t>(kTokens * shape.rows));

  size_t next = 0;
  const auto from_memory = [&](int64_t tokens) {
    lowbit::linear_a8wx(pool, x.data(), tokens, views[next++ % copies],
                        lowbit::ActivationScales::group, nullptr, out.data());
  };
  if (!o.tokens.empty()) return bench_chunks(o, shape, from_memory);
  const double decode = median_seconds([&] { from_memory(1); });
  const double prefill = median_seconds([&] {
    lowbit::linear_a8wx(pool, x.data(), kTokens, views[0], lowbit::ActivationScales::group, nullptr,
                        out.data());
  });
  const double gb = static_cast<double>(one.size()) / decode / 1e9;
  const double gmac =
      static_cast<double>(kTokens * shape.rows * shape.columns) / prefill / 1e9;
  if (o.json) {
    std::printf("{\"shape\": \"%s\", \"rows\": %lld, \"columns\": %lld, \"decode_gb_per_s\": %.2f, "
                "\"prefill_gmac_per_s\": %.1f}\n",
                shape.name.c_str(), static_cast<long long>(shape.rows),
                static_cast<long long>(shape.columns), gb, gmac);
  } else {
    std::printf("%-20s %8.1f us %6.1f GB/s %4.0f %%   %8.2f ms %6.0f GMAC/s %4.0f %%\n",
                shape.name.c_str(), decode * 1e6, gb, 100 * gb / bandwidth, prefill * 1e3, gmac,
                100 * gmac / peak);
  }
  std::fflush(stdout);
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const bool has_value = i + 1 < argc;
    if (flag == "--json") {
      o.json = true;
    } else if (flag == "--int8-scales") {
      o.int8_scales = true;
    } else if (flag == "--bandwidth") {
      o.bandwidth_only = true;
    } else if (flag == "--threads" && has_value) {
      o.threads = std::atoi(argv[++i]);
    } else if (flag == "--bits" && has_value) {
      o.bits = static_cast<uint32_t>(std::atoi(argv[++i]));
    } else if (flag == "--group" && has_value) {
      o.group = static_cast<uint32_t>(std::atoi(argv[++i]));
    } else if (flag == "--tokens" && has_value) {
      o.tokens.push_back(std::clamp(std::atoll(argv[++i]), 1ll, 512ll));
    } else if (flag == "--shapes" && has_value) {
      o.shapes = argv[++i];
    } else {
      std::fprintf(stderr, "error: unknown argument %s; see the top of kernel_bench.cpp\n",
                   flag.c_str());
      std::exit(2);
    }
  }
  return o;
}

}  // namespace

int main(int argc, char** argv) try {
  const Options o = parse(argc, argv);
  ThreadPool pool(runner::thread_count(o.threads));
  std::vector<uint8_t> memory(size_t{1} << 30, 1);
  const double bandwidth = read_bandwidth(pool, memory);
  if (o.bandwidth_only) {
    std::printf(o.json ? "{\"read_gb_per_s\": %.2f}\n" : "%.2f GB/s\n", bandwidth);
    return 0;
  }
  memory = {};
  const double peak = dot_peak(pool);
  const char* scales = o.int8_scales ? "int8" : "float16";
  if (o.json) {
    std::printf("{\"isa\": \"%s\", \"threads\": %d, \"scales\": \"%s\", "
                "\"read_gb_per_s\": %.2f, \"peak_gmac_per_s\": %.1f}\n",
                lowbit::isa_name(), pool.threads(), scales, bandwidth, peak);
  } else {
    std::printf("%s, %d threads, %u bits, groups of %u, %s scales: reads %.1f GB/s, peak %.0f GMAC/s\n",
                lowbit::isa_name(), pool.threads(), o.bits, o.group, scales, bandwidth, peak);
  }
  for (const Shape& shape : read_shapes(o.shapes)) bench_shape(pool, o, shape, bandwidth, peak);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
