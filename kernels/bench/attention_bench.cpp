// Times of attention over a long cache, one token, for each type of cache:
//   attention_bench [--threads N] [--depth N] [--heads H KV D] [--tokens T] [--rounds N]
// Four layers are taken in turn, so that a deep cache comes from memory. Types alternate; each line
// has the median of all rounds, and the bytes of the cache that were read a second.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/isa.h"
#include "system/cpu_count.h"
#include "system/thread_pool.h"

namespace {

using lowbit::CacheType;
using Clock = std::chrono::steady_clock;

struct Options {
  int threads = 0, rounds = 7;
  int64_t depth = 32768, heads = 32, kv_heads = 8, head_dim = 64, tokens = 1;
};

struct Layers {
  CacheType type;
  const char* name;
  int64_t bytes;  // of one layer's keys, or values
  std::vector<uint8_t> keys, values;
  std::vector<double> seconds;
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto next = [&] { return i + 1 < argc ? std::atoll(argv[++i]) : 0; };
    if (flag == "--threads") {
      o.threads = static_cast<int>(next());
    } else if (flag == "--depth") {
      o.depth = next();
    } else if (flag == "--heads") {
      o.heads = next(), o.kv_heads = next(), o.head_dim = next();
    } else if (flag == "--tokens") {
      o.tokens = next();
    } else if (flag == "--rounds") {
      o.rounds = static_cast<int>(next());
    } else {
      std::fprintf(stderr, "error: unknown argument %s; see the top of attention_bench.cpp\n",
                   flag.c_str());
      std::exit(2);
    }
  }
  return o;
}

}  // namespace

int main(int argc, char** argv) try {
  const Options o = parse(argc, argv);
  runner::ThreadPool pool(runner::thread_count(o.threads));
  constexpr int64_t kLayers = 4;
  const int64_t blocks = (o.depth + o.tokens + 15) / 16;
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  std::iota(table.begin(), table.end(), 0);
  const lowbit::AttentionShape shape{
      .heads = o.heads, .kv_heads = o.kv_heads, .head_dim = o.head_dim, .rotary_dim = 0,
      .interleaved = false, .window = 0,
      .scale = 1 / std::sqrt(static_cast<float>(o.head_dim))};
  const int64_t width = (o.heads + 2 * o.kv_heads) * o.head_dim, chunk = 256;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> qkv(static_cast<size_t>(std::max(chunk, o.tokens) * width));
  for (float& x : qkv) x = normal(random);
  std::vector<float> out(static_cast<size_t>(std::max(chunk, o.tokens) * o.heads * o.head_dim));

  std::vector<Layers> all;
  for (const auto& [type, name] :
       {std::pair{CacheType::float32, "float32"}, std::pair{CacheType::float16, "float16"},
        std::pair{CacheType::int8, "int8"}, std::pair{CacheType::int4, "int4"}}) {
    const int64_t block = lowbit::cache_block_bytes(type, o.head_dim);
    const int64_t bytes = o.kv_heads * blocks * block;
    Layers layers{type, name, bytes, {}, {}, {}};
    layers.keys.resize(static_cast<size_t>(kLayers * bytes));
    layers.values = layers.keys;
    // What one block of each head holds is held by all.
    const lowbit::Segment segment{16, 0, table.data()};
    lowbit::attention(pool, qkv.data(), std::span(&segment, 1), nullptr, nullptr, shape,
                      {type, layers.keys.data(), layers.values.data(), blocks}, out.data());
    for (auto* memory : {&layers.keys, &layers.values}) {
      for (int64_t at = block; at < kLayers * bytes; at += block) {
        std::copy_n(memory->data() + at % bytes / (blocks * block) * blocks * block, block,
                    memory->data() + at);
      }
    }
    all.push_back(std::move(layers));
  }
  for (int round = 0; round <= o.rounds; ++round) {
    for (Layers& layers : all) {
      const auto start = Clock::now();
      for (int64_t layer = 0; layer < kLayers; ++layer) {
        const lowbit::Segment segment{o.tokens, o.depth, table.data()};
        lowbit::attention(pool, qkv.data(), std::span(&segment, 1), nullptr, nullptr, shape,
                          {layers.type, layers.keys.data() + layer * layers.bytes,
                           layers.values.data() + layer * layers.bytes, blocks},
                          out.data());
      }
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count() / kLayers;
      if (round > 0) layers.seconds.push_back(seconds);
    }
  }
  std::printf("%s, %d threads, %lld tokens at depth %lld, %lld heads over %lld of width %lld\n",
              lowbit::isa_name(), pool.threads(), static_cast<long long>(o.tokens),
              static_cast<long long>(o.depth), static_cast<long long>(o.heads),
              static_cast<long long>(o.kv_heads), static_cast<long long>(o.head_dim));
  for (Layers& layers : all) {
    std::ranges::sort(layers.seconds);
    const double median = layers.seconds[static_cast<size_t>(o.rounds / 2)];
    std::printf("%-8s %9.1f us a layer %6.1f GB/s\n", layers.name, median * 1e6,
                2 * static_cast<double>(layers.bytes) / median / 1e9);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
