// Attention against double precision.

#include <algorithm>
#include <bit>
#include <cmath>
#include <ranges>

#include "kernels/lowbit.h"
#include "tests/cpp/kernel_attention.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;

namespace {

// A vector, each element with the sum of its terms' magnitudes (`size`) and with how far the cache
// may have moved it (`shift`).
struct Vector {
  std::vector<double> value, size, shift;
};

// Head `h` of token `t`'s queries or keys, which begin at column `from` and are `heads`.
std::vector<double> normed(const Scene& s, int64_t t, int64_t from, int64_t heads, int64_t h,
                           Norm norm, const std::vector<float>& weight) {
  const int64_t d = s.shape.head_dim, at = norm == Norm::whole ? h * d : 0;
  const float* all = &s.qkv[static_cast<size_t>(t * s.qkv_width() + from)];
  std::vector<double> x(all + h * d, all + (h + 1) * d);
  if (norm == Norm::none) return x;
  const std::vector<double> row =
      norm == Norm::whole ? std::vector<double>(all, all + heads * d) : x;
  double squares = 0;
  for (const double y : row) squares += y * y;
  const double root =
      std::sqrt(squares / static_cast<double>(row.size()) + double{s.shape.norm_eps});
  for (int64_t i = 0; i < d; ++i) {
    x[static_cast<size_t>(i)] *= weight[static_cast<size_t>(at + i)] / root;
  }
  return x;
}

// The roundings of each of normed()'s elements (kernels_elementwise_test.cpp, rms_norm).
double roundings(const Scene& s, int64_t heads, Norm norm) {
  if (norm == Norm::none) return 0;
  const int64_t width = s.shape.head_dim * (norm == Norm::whole ? heads : 1);
  return (static_cast<double>(width) / 16 + 7) / 2 + 4;
}

Vector rotated(const Scene& s, const std::vector<double>& given, int64_t position) {
  const int64_t d = s.shape.head_dim, half = s.shape.rotary_dim / 2;
  const double* x = given.data();
  Vector v{given, {}, std::vector<double>(static_cast<size_t>(d))};
  for (int64_t i = 0; i < d; ++i) v.size.push_back(std::fabs(x[i]));
  for (int64_t i = 0; i < half; ++i) {
    const auto a = static_cast<size_t>(s.shape.interleaved ? 2 * i : i);
    const auto b = static_cast<size_t>(s.shape.interleaved ? 2 * i + 1 : half + i);
    const double c = s.cos[static_cast<size_t>(position * half + i)];
    const double e = s.sin[static_cast<size_t>(position * half + i)];
    v.value[a] = x[a] * c - x[b] * e;
    v.value[b] = x[b] * c + x[a] * e;
    v.size[a] = std::fabs(x[a] * c) + std::fabs(x[b] * e);
    v.size[b] = std::fabs(x[b] * c) + std::fabs(x[a] * e);
  }
  return v;
}

// float16 rounds to 11 bits, or to multiples of 2^-24; int8 to steps of 1/127 of the largest.
void store(Vector& v, CacheType type) {
  const double largest = *std::max_element(v.size.begin(), v.size.end());
  for (size_t i = 0; i < v.shift.size(); ++i) {
    if (type == CacheType::float16) v.shift[i] = v.size[i] * 0x1p-11 + 0x1p-25;
    if (type == CacheType::int8) v.shift[i] = 0.501 * largest / 127;
  }
}

// How a 4-bit cache turns a vector, in double precision: by a Hadamard matrix in blocks of the
// largest power of two that divides its width. Of magnitudes, the bounds of what comes of them.
std::vector<double> turned(const std::vector<double>& x, bool magnitudes = false) {
  const size_t block = x.size() & (~x.size() + 1);
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = i / block * block; j < i / block * block + block; ++j) {
      const bool minus = !magnitudes && std::popcount(i & j & (block - 1)) % 2 == 1;
      y[i] += (minus ? -x[j] : x[j]) / std::sqrt(static_cast<double>(block));
    }
  }
  return y;
}

Vector turned(const Vector& v) { return {turned(v.value), turned(v.size, true), v.shift}; }

// What a 4-bit cache holds of a key or a value, as lowbit.h has its blocks.
struct Held {
  std::vector<double> value;
  double step, low;
};

Held held(const Scene& s, bool is_value, int64_t kv, int64_t position) {
  const int64_t d = s.shape.head_dim, width = (d + 31) / 32 * 32, lane = position % 16;
  const uint8_t* block = (is_value ? s.values : s.keys).data() +
                         (kv * s.blocks() + position / 16) *
                             lowbit::cache_block_bytes(CacheType::int4, d);
  const auto* ends = reinterpret_cast<const uint16_t*>(block + 8 * width);
  const auto number = [](uint16_t bits) {
    return double{std::bit_cast<float>(uint32_t{bits} << 16)};
  };
  Held result{{}, number(ends[lane]), number(ends[16 + lane])};
  for (int64_t i = 0; i < d; ++i) {
    const int64_t at = is_value ? ((i / 32 * 4 + lane / 4) * 16 + i % 16) * 4 + lane % 4
                                : (i / 8 * 16 + lane) * 4 + i % 4;
    const bool high = is_value ? i % 32 >= 16 : i % 8 >= 4;
    result.value.push_back(result.low + result.step * (high ? block[at] >> 4 : block[at] & 15));
  }
  return result;
}

// Checks that `v` is held to half a step, and the steps' size; makes it what is held. Rounding `v`
// took `roundings` of its sizes.
Held hold(const Scene& s, Vector& v, bool is_value, int64_t kv, int64_t position,
          double roundings) {
  const Held found = held(s, is_value, kv, position);
  const auto [least, most] = std::ranges::minmax(v.value);
  const double rounding = roundings * kUnit * std::ranges::max(v.size);
  const double range = most - least + 0x1p-7 * std::fabs(least) + 2 * rounding;
  bool right = found.step <= range / 15 * (1 + 0x1p-7) + 1e-35;
  for (size_t i = 0; i < v.value.size(); ++i) {
    const double off = std::fabs(found.value[i] - v.value[i]);
    right = right && off <= 0.5 * found.step * (1 + 0x1p-20) + rounding + 1e-35;
    v.value[i] = found.value[i];
    v.size[i] = std::fabs(found.low) + 15 * found.step;
  }
  if (!right) {
    check::fail(__FILE__, __LINE__,
                describe(s.shape, s.type) + ": position " + std::to_string(position) +
                    " is not held to half a step");
  }
  return found;
}

// Checks head `h` of token `t`. `exact`: what was stored is what the cache's type holds exactly.
void check_output(Scene& s, int64_t t, int64_t h, bool exact, Worst& worst) {
  const int64_t d = s.shape.head_dim, kv = h / (s.shape.heads / s.shape.kv_heads);
  const int64_t first = s.shape.window > 0 ? std::max<int64_t>(0, t + 1 - s.shape.window) : 0;
  const double factor_of_query =
      s.query_factors.empty() ? 1 : double{s.query_factors[static_cast<size_t>(t / kFactorSpan)]};
  const double scale = s.shape.scale * factor_of_query, cap = s.shape.softcap;
  const bool int4 = s.type == CacheType::int4;
  Vector q = rotated(s, normed(s, t, 0, s.shape.heads, h, s.extras.q_norm, s.q_norm), t);
  const double of_norms = roundings(s, s.shape.heads, s.extras.q_norm) +
                          roundings(s, s.shape.kv_heads, s.extras.k_norm);
  // Turning takes 16 roundings, then one for each doubling.
  const double of_turns = int4 ? 26 : 0;
  if (int4) {
    q = turned(q);
    std::ranges::fill(q.shift, 0.501 * std::ranges::max(q.size) / 127);  // rounded to int8
  }
  std::vector<double> scores;
  double score_error = 0;
  for (int64_t p = first; p <= t; ++p) {
    Vector k = rotated(
        s, normed(s, p, s.shape.heads * d, s.shape.kv_heads, kv, s.extras.k_norm, s.k_norm), p);
    if (int4) {
      k = turned(k);
      hold(s, k, false, kv, p, 10 + of_norms + of_turns);
    } else if (!exact) {
      store(k, s.type);
    }
    double score = 0, size = 0, shift = 0;
    for (size_t i = 0; i < static_cast<size_t>(d); ++i) {
      score += q.value[i] * k.value[i] * scale;
      size += q.size[i] * k.size[i] * std::fabs(scale);
      shift += (q.size[i] * k.shift[i] + q.shift[i] * k.size[i]) * std::fabs(scale);
    }
    // 3 roundings in each rotated element, 3 for 1 / sqrt(d), 1 for a query's factor, d in the
    // sum, 1 for a step.
    double error = (static_cast<double>(d) + 11 + of_norms + of_turns) * kUnit * size + shift;
    if (cap > 0) {
      score = cap * std::tanh(score / cap);
      error += (5e-7 + 4 * kUnit) * std::fabs(score);  // tanh never amplifies
    }
    scores.push_back(score);
    score_error = std::max(score_error, error);
  }
  auto [least, largest] = std::ranges::minmax(scores);
  const double sink = s.extras.sinks ? double{s.sinks[static_cast<size_t>(h)]} : largest;
  largest = std::max(largest, sink);
  const double range = largest - std::min(least, sink);
  std::vector<double> sums(static_cast<size_t>(d)), sizes(sums), shifts(sums);
  double total = s.extras.sinks ? std::exp(sink - largest) : 0, heaviest = 0;
  for (int64_t p = first; p <= t; ++p) {
    const double weight = std::exp(scores[static_cast<size_t>(p - first)] - largest);
    const float* from = s.token(p) + (s.shape.heads + s.shape.kv_heads + kv) * d;
    Vector v{std::vector<double>(from, from + d), std::vector<double>(from, from + d),
             std::vector<double>(static_cast<size_t>(d))};
    for (double& x : v.size) x = std::fabs(x);
    if (int4) {
      v = turned(v);
      heaviest = std::max(heaviest, weight * hold(s, v, true, kv, p, of_turns).step);
    } else if (!exact) {
      store(v, s.type);
    }
    total += weight;
    for (size_t i = 0; i < sums.size(); ++i) {
      sums[i] += weight * v.value[i];
      sizes[i] += weight * v.size[i];
      shifts[i] += weight * v.shift[i];
    }
  }
  // A weight is off by what its score is, by the rounding of its difference to the largest, and by
  // the error of exp, below 2e-7; joining chunks multiplies it by such an exp once a chunk. Sums
  // of n positions round n times. All of it may come in the divisor too, with the other sign.
  const double n = static_cast<double>(t + 1 - first), chunks = 3 + n / 256;
  const double relative = score_error + chunks * (2e-7 + (range + 4) * kUnit) + (n + 8) * kUnit;
  const double factor = std::exp(2 * relative);
  if (int4) {
    // Each weight is rounded to 1/32512 of the heaviest, and stands for up to 15 steps.
    for (double& shift : shifts) shift += n * 0.501 / 32512 * 15 * heaviest;
    for (double& size : sizes) size *= 1 + of_turns * kUnit / (factor - 1);
    sums = turned(sums), sizes = turned(sizes, true), shifts = turned(shifts, true);
  }
  for (int64_t i = 0; i < d; ++i) {
    const auto j = static_cast<size_t>(i);
    const int64_t at = t * s.out_width() + h * d + i;
    double wanted = sums[j] / total;
    double bound = (factor - 1) * sizes[j] / total + factor * shifts[j] / total;
    if (s.shape.gated) {
      const double open = 1 / (1 + std::exp(-double{s.token(t)[s.gate_at() + h * d + i]}));
      wanted *= open;
      bound = bound * open + std::fabs(wanted) * (2e-7 + 6 * kUnit);
    }
    worst.see(at, s.out[static_cast<size_t>(at)], wanted, bound);
  }
}

void check_scene(Scene& s, bool exact, Hash& hash) {
  SerialHost host;
  s.run(host, 0, s.positions);
  Worst worst;
  for (const int64_t t : {0, 5, 15, 16, 32, 33, 255, 256, 257, 299, 511, 512, 599}) {
    for (int64_t h = 0; t < s.positions && h < s.shape.heads; ++h) {
      check_output(s, t, h, exact, worst);
    }
  }
  if (worst.share > 1) {
    check::fail(__FILE__, __LINE__,
                describe(s.shape, s.type) + ": off by " + std::to_string(worst.share) +
                    " bounds in token " + std::to_string(worst.at / s.out_width()));
  }
  hash.add(s.out);
}

struct Case {
  AttentionShape shape;
  int64_t positions;
};

// heads, key/value heads, width, rotary width, interleaved, window
constexpr Case kCases[] = {
    {{1, 1, 64, 64, false, 0}, 600},  {{3, 1, 16, 16, false, 33}, 600},
    {{4, 1, 80, 80, true, 0}, 140},   {{14, 2, 40, 40, false, 0}, 70},
    {{9, 1, 128, 64, false, 0}, 60},  {{4, 1, 256, 256, false, 20}, 60},
    {{1, 1, 48, 24, true, 300}, 520}, {{6, 3, 5, 4, true, 0}, 70},
    {{1, 1, 1, 0, false, 0}, 40},     {{8, 1, 64, 0, false, 256}, 40},
    {{2, 1, 100, 60, false, 1}, 300},
};

// Whole numbers up to 127 times a power of two, 127 among them: three types hold them exactly.
void make_exact(Random& random, Scene& s) {
  const int64_t d = s.shape.head_dim;
  for (int64_t t = 0; t < s.positions; ++t) {
    for (int64_t h = s.shape.heads; h < s.shape.heads + 2 * s.shape.kv_heads; ++h) {
      float* x = s.token(t) + h * d;
      for (int64_t i = 0; i < d; ++i) x[i] = static_cast<float>(random.below(255) - 127) * 0x1p-6f;
      x[random.below(d)] = 127 * 0x1p-6f;
    }
  }
  std::fill(s.cos.begin(), s.cos.end(), 1.0f);
  std::fill(s.sin.begin(), s.sin.end(), 0.0f);
}

}  // namespace

TEST(what_the_cache_holds_exactly) {
  std::vector<uint64_t> hashes;
  for (const CacheType type : {CacheType::float32, CacheType::float16, CacheType::int8}) {
    Random random(12);
    Hash hash;
    for (const Case& c : kCases) {
      Scene scene(random, c.shape, type, c.positions);
      make_exact(random, scene);
      check_scene(scene, true, hash);
    }
    report(std::string("attention without rotation, ") + name_of(type), hash);
    hashes.push_back(hash.value());
  }
  CHECK_EQ(hashes, std::vector<uint64_t>(3, hashes[0]));  // int8's steps are powers of two
}

TEST(rotated_and_stored_in_each_type) {
  for (const CacheType type : kCacheTypes) {
    Random random(13);
    Hash hash;
    for (const Case& c : kCases) {
      Scene scene(random, c.shape, type, c.positions);
      check_scene(scene, type == CacheType::float32, hash);
    }
    report(std::string("attention, ") + name_of(type), hash);
  }
}

TEST(with_norms_sinks_gates_and_a_cap) {
  for (const CacheType type : kCacheTypes) {
    Random random(40);
    Hash hash;
    for (const RichCase& c : kRichCases) {
      Scene scene(random, c.shape, type, c.positions, c.extras);
      check_scene(scene, type == CacheType::float32, hash);
    }
    report(std::string("attention with all its parts, ") + name_of(type), hash);
  }
}

// A head's norm is rms_norm's, to the bit, and a sink of minus infinity is none.
TEST(parts_that_change_nothing) {
  SerialHost host;
  Random random(41);
  Scene rich(random, {4, 2, 40, 40, false, 0}, CacheType::float32, 40,
             {Norm::by_head, Norm::by_head, true});
  std::fill(rich.sinks.begin(), rich.sinks.end(), -INFINITY);
  Scene plain = rich;
  plain.q_norm.clear(), plain.k_norm.clear(), plain.sinks.clear();
  for (int64_t t = 0; t < plain.positions; ++t) {
    float *q = plain.token(t), *k = q + 4 * 40;
    lowbit::rms_norm(host, q, 4, 40, rich.q_norm.data(), rich.shape.norm_eps, q);
    lowbit::rms_norm(host, k, 2, 40, rich.k_norm.data(), rich.shape.norm_eps, k);
  }
  rich.run(host, 0, rich.positions);
  plain.run(host, 0, plain.positions);
  CHECK(same_bits(rich.out, plain.out));
}

// Scores hundreds apart: weights beyond exp's range are 0, and chunks without weight count nothing.
TEST(far_apart_scores) {
  for (const CacheType type : kCacheTypes) {
    Random random(14);
    Hash hash;
    Scene scene(random, {2, 1, 64, 64, false, 0}, type, 300);
    for (int64_t t = 0; t < scene.positions; ++t) {
      for (int64_t i = 0; i < 2 * 64; ++i) scene.token(t)[i] *= 30;
    }
    check_scene(scene, type == CacheType::float32, hash);
    report(std::string("attention with far apart scores, ") + name_of(type), hash);
  }
}

KERNEL_TEST_MAIN()
