// Attention: how its work is divided among threads. The arithmetic is in impl/.

#include <limits>

#include "kernels/isa.h"
#include "kernels/lowbit.h"
#include "kernels/work.h"

namespace lowbit {
namespace {

constexpr int64_t kTileTokens = 8;  // a task's; the heads of a group share its keys and values

int64_t rounded_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// What the attention of one segment is divided into: for one token the chunks of its cache, if it has
// several; else tiles of its tokens. Either for each key/value head.
struct Part {
  const Segment* segment;
  int64_t first_token;  // of the forward
  int64_t first_task;   // of the forward
  int64_t first_chunk;
  int64_t pieces;  // chunks or tiles
  bool by_chunk;
  float* partials;  // [chunks][H][partial_size], where it is by chunk
};

Part part_of(const Segment& segment, const AttentionShape& shape) {
  const int64_t start = segment.start, tokens = segment.tokens;
  const int64_t first_chunk = first_seen(start, shape.window) / kChunk;
  const int64_t chunks = rounded_up(start + tokens, kChunk) - first_chunk;
  const bool by_chunk = tokens == 1 && chunks > 1;
  return {&segment, 0, 0, first_chunk, by_chunk ? chunks : rounded_up(tokens, kTileTokens), by_chunk,
          nullptr};
}

// The part that holds number `at` of what `first` counts, not before `part`.
const Part* part_with(const Part* part, const Part* end, int64_t Part::*first, int64_t at) {
  while (part + 1 < end && part[1].*first <= at) ++part;
  return part;
}

}  // namespace

void attention(Host& host, const float* qkv, std::span<const Segment> segments, const float* cos,
               const float* sin, const AttentionShape& shape, const Cache& cache, float* out) {
  const FloatKernels& k = *isa().floats;
  const int64_t query_width = shape.heads * shape.head_dim;
  const int64_t gate_at = query_width + 2 * shape.kv_heads * shape.head_dim;
  const int64_t width = gate_at + (shape.gated ? query_width : 0);
  const int64_t heads_each = shape.heads / shape.kv_heads;
  const int64_t head_partials = partial_size(shape.head_dim);
  const int64_t chunk_partials = shape.heads * head_partials;

  int64_t tokens = 0, tasks = 0, chunks = 0;
  for (const Segment& segment : segments) {
    const Part part = part_of(segment, shape);
    tokens += segment.tokens;
    if (part.by_chunk) chunks += part.pieces;
  }
  Part* parts;
  float *queries, *partials;
  Arena arena;
  arena.reserve(parts, std::ssize(segments));
  arena.reserve(queries, tokens * query_width);
  arena.reserve(partials, chunks * chunk_partials);
  arena.allocate(host);
  const Part* end_of_parts = parts + segments.size();
  tokens = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    Part& part = parts[i] = part_of(segments[i], shape);
    part.first_token = tokens;
    part.first_task = tasks;
    part.partials = partials;
    tokens += segments[i].tokens;
    tasks += shape.kv_heads * part.pieces;
    if (part.by_chunk) partials += part.pieces * chunk_partials;
  }

  parallel(host, tokens, row_grain(width), [&](int64_t begin, int64_t end) {
    const Part* part = parts;
    for (int64_t t = begin; t < end; ++t) {
      part = part_with(part, end_of_parts, &Part::first_token, t);
      const int64_t position = part->segment->start + t - part->first_token;
      k.rotate_and_cache(qkv + t * width, position, part->segment->blocks[position / kBlock], cos,
                         sin, shape, cache, queries + t * query_width);
    }
  });
  parallel(host, tasks, 1, [&](int64_t begin, int64_t end) {
    const Part* part = parts;
    for (int64_t task = begin; task < end; ++task) {
      part = part_with(part, end_of_parts, &Part::first_task, task);
      const Segment& segment = *part->segment;
      const float* given = queries + part->first_token * query_width;
      const int64_t i = task - part->first_task;
      if (part->by_chunk) {
        const int64_t kv_head = i / part->pieces, chunk = i % part->pieces;
        k.attend_chunk(given, segment, part->first_chunk + chunk, kv_head, shape, cache,
                       part->partials + chunk * chunk_partials + kv_head * heads_each * head_partials);
      } else {
        const int64_t kv_head = i % shape.kv_heads, from = i / shape.kv_heads * kTileTokens;
        const int64_t to = std::min(from + kTileTokens, segment.tokens);
        k.attend(given, segment, from, to, kv_head, shape, cache,
                 out + part->first_token * query_width);
      }
    }
  });
  for (const Part* part = parts; part < end_of_parts && chunks > 0; ++part) {
    if (!part->by_chunk) continue;
    const int64_t grain = row_grain(part->pieces * head_partials);
    parallel(host, shape.heads, grain, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) {
        k.merge_chunks(part->partials + h * head_partials, chunk_partials, part->pieces,
                       shape.head_dim, shape.sinks != nullptr ? shape.sinks + h : nullptr,
                       out + part->first_token * query_width + h * shape.head_dim);
      }
    });
  }
  if (cache.type == CacheType::int4) {
    parallel(host, tokens, row_grain(query_width), [&](int64_t begin, int64_t end) {
      for (int64_t h = begin * shape.heads; h < end * shape.heads; ++h) {
        k.turn(out + h * shape.head_dim, shape.head_dim);
      }
    });
  }
  if (!shape.gated) return;
  parallel(host, tokens, row_grain(4 * query_width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = out + t * query_width;
      k.gate_mul(Activation::sigmoid, qkv + t * width + gate_at, row, query_width,
                 std::numeric_limits<float>::infinity(), 0, row);
    }
  });
}

}  // namespace lowbit
