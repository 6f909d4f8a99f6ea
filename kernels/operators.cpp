// The operators: how the work is divided among threads. The arithmetic is in impl/.

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/isa.h"
#include "kernels/lowbit.h"
#include "kernels/work.h"

namespace lowbit {
namespace {

// ln(x) for a normal x > 0, by operations that every CPU rounds alike: x = m 2^e with m within a
// factor of sqrt(2) of 1, ln m = 2 (t + t^3 / 3 + t^5 / 5 + ...) with t = (m - 1) / (m + 1),
// |t| < 0.172: what is left out is below 1e-15.
double natural_log(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  auto exponent = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  double m;
  std::memcpy(&m, &bits, sizeof(m));
  if (m > 1.4142135623730951) {
    m /= 2;
    ++exponent;
  }
  const double t = (m - 1) / (m + 1), square = t * t;
  double series = 0;
  for (int n = 19; n > 0; n -= 2) series = series * square + 1.0 / n;
  return static_cast<double>(exponent) * 0.69314718055994531 + 2 * t * series;
}

}  // namespace

void linear_a8wx(Host& host, const float* x, int64_t tokens, const PackedWeight& weight,
                 ActivationScales scales, const float* bias, float* out) {
  const Isa& k = isa();
  Int8Activations quantized;
  Arena arena;
  int64_t places = 0;
  while (places < tokens) places += k.tile(places, tokens, weight).size;
  arena.reserve(quantized.values, places * weight.padded_columns);
  arena.reserve(quantized.scales, places * weight.groups);
  arena.reserve(quantized.starts, places * weight.groups);
  arena.reserve(quantized.scaled_sums, places * weight.groups);
  arena.reserve(quantized.offsets, tokens);
  arena.reserve(quantized.factors, tokens);
  arena.allocate(host);
  const Tile first = k.tile(0, tokens, weight);
  if (first.tokens == tokens && scales == ActivationScales::group) {
    // One tile: threads share out its groups, where they are worth a wake-up.
    const int64_t grain = std::max<int64_t>(1, 4096 / (tokens * weight.format.group_size));
    parallel(host, weight.groups, grain, [&](int64_t begin, int64_t end) {
      k.quantize(x, first, weight, scales, begin, end, quantized);
    });
  } else {
    // Tiles are counted by the first's size; whoever has the last may find several smaller ones.
    const int64_t size = first.tokens;
    parallel(host, (tokens + size - 1) / size, 1, [&](int64_t begin, int64_t end) {
      for (int64_t token = begin * size; token < end * size && token < tokens;) {
        const Tile tile = k.tile(token, tokens, weight);
        k.quantize(x, tile, weight, scales, 0, weight.groups, quantized);
        token += tile.tokens;
      }
    });
  }
  parallel(host, weight.panel_count(), 4, [&](int64_t begin, int64_t end) {
    k.linear_a8wx(quantized, 0, tokens, weight, bias, out, begin, end);
  });
}

int64_t float_sums(const PackedWeight& weight, int64_t tokens) {
  return weight.format.zeros == Zeros::real ? tokens * weight.groups : 0;
}

void pad_rows(Host& host, const float* x, int64_t tokens, const PackedWeight& weight, float* padded,
              float* sums) {
  const bool summed = float_sums(weight, tokens) > 0;
  parallel(host, tokens, row_grain(weight.columns), [&](int64_t begin, int64_t end) {
    const auto columns = static_cast<size_t>(weight.columns);
    const auto rest = static_cast<size_t>(weight.padded_columns - weight.columns);
    for (int64_t t = begin; t < end; ++t) {
      float* row = padded + t * weight.padded_columns;
      std::memcpy(row, x + t * weight.columns, columns * sizeof(float));
      std::memset(row + columns, 0, rest * sizeof(float));
      if (summed) isa().floats->group_sums(row, weight, sums + t * weight.groups);
    }
  });
}

void linear_wx(Host& host, const float* x, int64_t tokens, const PackedWeight& weight,
               const float* bias, float* out) {
  float *padded, *sums;
  Arena arena;
  arena.reserve(padded, tokens * weight.padded_columns);
  arena.reserve(sums, float_sums(weight, tokens));
  arena.allocate(host);
  pad_rows(host, x, tokens, weight, padded, sums);
  parallel(host, weight.panel_count(), 4, [&](int64_t begin, int64_t end) {
    isa().floats->linear_wx(padded, sums, tokens, weight, bias, out, begin, end);
  });
}

void linear_fp(Host& host, const float* x, int64_t tokens, const PackedWeight& weight,
               const float* bias, float* out) {
  parallel(host, weight.panel_count(), 4, [&](int64_t begin, int64_t end) {
    isa().floats->linear_fp(x, tokens, weight, bias, out, begin, end);
  });
}

bool embedding(Host& host, const int64_t* tokens, int64_t n_tokens,
               std::span<const PackedWeight> weights, float scale, float* out) {
  int64_t rows = 0;
  for (const PackedWeight& w : weights) rows += w.rows;
  for (int64_t t = 0; t < n_tokens; ++t) {
    if (tokens[t] < 0 || tokens[t] >= rows) return false;
  }
  const int64_t width = weights[0].columns;
  parallel(host, n_tokens, row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      int64_t row = tokens[t];
      const PackedWeight* w = weights.data();
      for (; row >= w->rows; ++w) row -= w->rows;
      unpack_row(*w, row, out + t * width);
      for (int64_t i = 0; scale != 1 && i < width; ++i) out[t * width + i] *= scale;
    }
  });
  return true;
}

void rms_norm(Host& host, const float* x, int64_t tokens, int64_t width, const float* weight,
              float eps, float* out) {
  parallel(host, tokens, row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      isa().floats->rms_norm(x + t * width, width, weight, eps, out + t * width);
    }
  });
}

void layer_norm(Host& host, const float* x, int64_t tokens, int64_t width, const float* weight,
                const float* bias, float eps, float* out) {
  parallel(host, tokens, row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      isa().floats->layer_norm(x + t * width, width, weight, bias, eps, out + t * width);
    }
  });
}

void activate(Host& host, Activation activation, const float* x, int64_t n, float* out) {
  parallel(host, n, 4096, [&](int64_t begin, int64_t end) {
    isa().floats->activate(activation, x + begin, end - begin, out + begin);
  });
}

void xielu(Host& host, const float* x, int64_t n, const Xielu& parameters, float* out) {
  parallel(host, n, 4096, [&](int64_t begin, int64_t end) {
    isa().floats->xielu(x + begin, end - begin, parameters, out + begin);
  });
}

void gate_mul(Host& host, Activation activation, const float* gate_up, int64_t tokens,
              int64_t width, float limit, float offset, float* out) {
  if (limit == 0) limit = std::numeric_limits<float>::infinity();
  parallel(host, tokens, row_grain(4 * width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* gate = gate_up + 2 * t * width;
      isa().floats->gate_mul(activation, gate, gate + width, width, limit, offset, out + t * width);
    }
  });
}

void add(Host& host, const float* a, const float* b, int64_t n, float* out) {
  parallel(host, n, 16384, [&](int64_t begin, int64_t end) {
    isa().floats->add(a + begin, b + begin, end - begin, out + begin);
  });
}

void softcap(Host& host, const float* x, int64_t n, float cap, float* out) {
  parallel(host, n, 4096, [&](int64_t begin, int64_t end) {
    isa().floats->softcap(x + begin, end - begin, cap, out + begin);
  });
}

void log_softmax_at(Host& host, const float* x, int64_t tokens, int64_t width,
                    const int64_t* targets, float* out) {
  parallel(host, tokens, row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const PowerSum row = isa().floats->power_sum(x + t * width, width);
      const double logit = x[t * width + targets[t]];
      out[t] = static_cast<float>(logit - static_cast<double>(row.largest) - natural_log(row.total));
    }
  });
}

}  // namespace lowbit
