// Mixtures of experts: which rows are an expert's, and how threads share them out.

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/isa.h"
#include "kernels/lowbit.h"
#include "kernels/work.h"

namespace lowbit {
namespace {

// The number of the expert at place `i` of a token's routes; -1 where it is none of them.
int64_t expert_at(const float* route, int64_t i, int64_t experts) {
  const float number = route[i];
  if (!(number >= 0) || !(number < static_cast<float>(experts))) return -1;
  const auto expert = static_cast<int64_t>(number);
  return static_cast<float>(expert) == number ? expert : -1;
}

// The experts that have rows, and each one's part of a weight that has all of theirs.
class UsedExperts {
 public:
  UsedExperts(const ExpertRows& rows, const PackedWeight& weight) : one_(weight) {
    one_.rows = one_.output_stride = weight.rows / rows.experts();
    for (int64_t e = 0; e < rows.experts(); ++e) {
      if (rows.size(e) > 0) used_[static_cast<size_t>(count_++)] = static_cast<int32_t>(e);
    }
  }

  int64_t count() const { return count_; }
  int64_t operator[](int64_t i) const { return used_[static_cast<size_t>(i)]; }
  int64_t features() const { return one_.rows; }
  PackedWeight weight(int64_t expert) const {
    PackedWeight own = one_;
    own.panels += static_cast<size_t>(expert * one_.panel_count()) * one_.panel_bytes;
    return own;
  }

  // Calls f(expert, its weight, panel_begin, panel_end) for parts of all their panels.
  template <class F>
  void each_panel(Host& host, const F& f) const {
    const int64_t panels = one_.panel_count();
    parallel(host, count_ * panels, 4, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t expert = (*this)[begin / panels], first = begin % panels;
        const int64_t last = std::min(panels, first + end - begin);
        f(expert, weight(expert), first, last);
        begin += last - first;
      }
    });
  }

 private:
  PackedWeight one_;  // the first expert's
  int64_t count_ = 0;
  std::array<int32_t, kMaxExperts> used_;
};

// Experts whose rows are worth a thread's wake-up.
int64_t expert_grain(const ExpertRows& rows, int64_t used, int64_t width) {
  return std::max<int64_t>(1, row_grain(width) * used / std::max<int64_t>(1, rows.total()));
}

// The row of each pair, in scratch memory.
const int32_t* places_of(Host& host, const Routes& routes, const ExpertRows& rows) {
  int32_t* places;
  Arena arena;
  arena.reserve(places, rows.total());
  arena.allocate(host);
  rows.place(routes, places);
  return places;
}

const float* of_expert(const float* bias, int64_t expert, int64_t features) {
  return bias == nullptr ? nullptr : bias + expert * features;
}

}  // namespace

bool ExpertRows::count(const Routes& routes, int64_t experts) {
  experts_ = experts;
  const auto ends = begins_.begin() + 1;
  std::fill_n(begins_.begin(), experts + 1, 0);
  for (int64_t t = 0; t < routes.tokens; ++t) {
    for (int64_t i = 0; i < routes.chosen; ++i) {
      const int64_t e = expert_at(routes.data + 2 * t * routes.chosen, i, experts);
      if (e < 0) return false;
      ++ends[e];
    }
  }
  for (int64_t e = 0; e < experts; ++e) ends[e] += begins_[static_cast<size_t>(e)];
  return true;
}

void ExpertRows::place(const Routes& routes, int32_t* rows) const {
  std::array<int32_t, kMaxExperts> next;
  std::copy_n(begins_.begin(), experts_, next.begin());
  for (int64_t t = 0; t < routes.tokens; ++t) {
    for (int64_t i = 0; i < routes.chosen; ++i) {
      const int64_t e = expert_at(routes.data + 2 * t * routes.chosen, i, experts_);
      *rows++ = next[static_cast<size_t>(e)]++;
    }
  }
}

void route(Host& host, const float* logits, int64_t tokens, int64_t experts, int64_t chosen,
           bool renormalize, float* out) {
  parallel(host, tokens, row_grain(experts * chosen), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      isa().floats->route(logits + t * experts, experts, chosen, renormalize, out + 2 * t * chosen);
    }
  });
}

void dispatch(Host& host, const float* x, int64_t width, const Routes& routes,
              const ExpertRows& rows, float* out) {
  const int32_t* places = places_of(host, routes, rows);
  parallel(host, routes.tokens, row_grain(routes.chosen * width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t i = 0; i < routes.chosen; ++i) {
        std::memcpy(out + places[t * routes.chosen + i] * width, x + t * width,
                    static_cast<size_t>(width) * sizeof(float));
      }
    }
  });
}

void experts_a8wx(Host& host, const float* x, const ExpertRows& rows, const PackedWeight& weight,
                  ActivationScales scales, const float* bias, float* out) {
  const Isa& k = isa();
  const UsedExperts used(rows, weight);
  std::array<int64_t, kMaxExperts> first_place;  // of an expert's tiles
  int64_t places = 0;
  for (int64_t i = 0; i < used.count(); ++i) {
    const int64_t tokens = rows.size(used[i]);
    first_place[static_cast<size_t>(used[i])] = places;
    for (int64_t token = 0; token < tokens;) {
      const Tile tile = k.tile(token, tokens, weight);
      places += tile.size;
      token += tile.tokens;
    }
  }
  Int8Activations all;
  Arena arena;
  arena.reserve(all.values, places * weight.padded_columns);
  arena.reserve(all.scales, places * weight.groups);
  arena.reserve(all.starts, places * weight.groups);
  arena.reserve(all.scaled_sums, places * weight.groups);
  arena.reserve(all.offsets, rows.total());
  arena.reserve(all.factors, rows.total());
  arena.allocate(host);
  const auto of = [&](int64_t expert) {
    const int64_t place = first_place[static_cast<size_t>(expert)], row = rows.begin(expert);
    return Int8Activations{.values = all.values + place * weight.padded_columns,
                           .scales = all.scales + place * weight.groups,
                           .starts = all.starts + place * weight.groups,
                           .scaled_sums = all.scaled_sums + place * weight.groups,
                           .offsets = all.offsets + row,
                           .factors = all.factors + row};
  };
  const int64_t grain = expert_grain(rows, used.count(), weight.columns);
  parallel(host, used.count(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* own = x + rows.begin(used[i]) * weight.columns;
      const int64_t tokens = rows.size(used[i]);
      for (int64_t token = 0; token < tokens;) {
        const Tile tile = k.tile(token, tokens, weight);
        k.quantize(own, tile, weight, scales, 0, weight.groups, of(used[i]));
        token += tile.tokens;
      }
    }
  });
  const int64_t features = used.features();
  used.each_panel(host, [&](int64_t expert, const PackedWeight& own, int64_t begin, int64_t end) {
    k.linear_a8wx(of(expert), 0, rows.size(expert), own, of_expert(bias, expert, features),
                  out + rows.begin(expert) * features, begin, end);
  });
}

void experts_wx(Host& host, const float* x, const ExpertRows& rows, const PackedWeight& weight,
                const float* bias, float* out) {
  float *padded, *sums;
  Arena arena;
  arena.reserve(padded, rows.total() * weight.padded_columns);
  arena.reserve(sums, float_sums(weight, rows.total()));
  arena.allocate(host);
  pad_rows(host, x, rows.total(), weight, padded, sums);
  const UsedExperts used(rows, weight);
  const int64_t features = used.features();
  used.each_panel(host, [&](int64_t expert, const PackedWeight& own, int64_t begin, int64_t end) {
    const int64_t row = rows.begin(expert);
    isa().floats->linear_wx(padded + row * own.padded_columns, sums + row * own.groups,
                            rows.size(expert), own, of_expert(bias, expert, features),
                            out + row * features, begin, end);
  });
}

void experts_fp(Host& host, const float* x, const ExpertRows& rows, const PackedWeight& weight,
                const float* bias, float* out) {
  const UsedExperts used(rows, weight);
  const int64_t features = used.features();
  used.each_panel(host, [&](int64_t expert, const PackedWeight& own, int64_t begin, int64_t end) {
    const int64_t row = rows.begin(expert);
    isa().floats->linear_fp(x + row * own.columns, rows.size(expert), own,
                            of_expert(bias, expert, features), out + row * features, begin, end);
  });
}

void combine(Host& host, const float* x, int64_t width, const Routes& routes,
             const ExpertRows& rows, float* out) {
  const int32_t* places = places_of(host, routes, rows);
  const int64_t chosen = routes.chosen;
  parallel(host, routes.tokens, row_grain(chosen * width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* factors = routes.data + (2 * t + 1) * chosen;
      float* sum = out + t * width;
      std::memset(sum, 0, static_cast<size_t>(width) * sizeof(float));
      for (int64_t i = 0; i < chosen; ++i) {
        isa().floats->add_scaled(x + places[t * chosen + i] * width, width, factors[i], sum);
      }
    }
  });
}

}  // namespace lowbit
