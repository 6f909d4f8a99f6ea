// Blocks of the KV cache: their sizes, and where keys and values lie in them.

#include <cstring>

#include "kernels/isa.h"

namespace lowbit {

int64_t cache_block_bytes(CacheType type, int64_t head_dim) {
  const int64_t values = 16 * padded_head_dim(head_dim);
  switch (type) {
    case CacheType::float32: return values * 4;
    case CacheType::float16: return values * 2;
    case CacheType::int8: return values + 16 * static_cast<int64_t>(sizeof(float));
    case CacheType::int4: return 8 * int4_width(head_dim) + 64;
  }
  return 0;
}

void clear_positions(CacheType type, bool keys, int64_t head_dim, int64_t from, void* block) {
  auto* bytes = static_cast<unsigned char*>(block);
  // Of `count` rows with `size` bytes a position, those of the positions.
  const auto clear = [&](int64_t count, int64_t size) {
    for (; count > 0; --count, bytes += 16 * size) {
      std::memset(bytes + from * size, 0, static_cast<size_t>((16 - from) * size));
    }
  };
  const int64_t width = padded_head_dim(head_dim);
  const auto clear_elements = [&](int64_t size) {
    keys ? clear(head_dim, size) : clear(1, width * size);
  };
  switch (type) {
    case CacheType::float32: return clear_elements(4);
    case CacheType::float16: return clear_elements(2);
    case CacheType::int8: clear_elements(1); return clear(1, sizeof(float));
    case CacheType::int4: break;
  }
  if (keys) {
    clear(int4_width(head_dim) / 8, 4);
  } else {
    const uint8_t zeros[kMaxHeadDim] = {};
    for (int64_t lane = from; lane < 16; ++lane) scatter_int4_value(zeros, head_dim, lane, bytes);
    bytes += 8 * int4_width(head_dim);
  }
  clear(2, sizeof(uint16_t));  // steps and lows
}

void scatter_key(const void* key, int64_t size, int64_t head_dim, int64_t lane, void* block) {
  const auto scatter = [&]<class T>(const T* from) {
    auto* to = static_cast<T*>(block) + lane;
    for (int64_t i = 0; i < head_dim; ++i) to[16 * i] = from[i];
  };
  switch (size) {
    case 1: return scatter(static_cast<const uint8_t*>(key));
    case 2: return scatter(static_cast<const uint16_t*>(key));
    default: return scatter(static_cast<const uint32_t*>(key));
  }
}

void scatter_int4_key(const uint8_t* u, int64_t head_dim, int64_t lane, uint8_t* block) {
  for (int64_t i = 0; i < int4_width(head_dim); i += 8) {
    for (int64_t j = 0; j < 4; ++j) {
      block[8 * i + 4 * lane + j] = static_cast<uint8_t>(u[i + j] | u[i + 4 + j] << 4);
    }
  }
}

void scatter_int4_value(const uint8_t* u, int64_t head_dim, int64_t lane, uint8_t* block) {
  for (int64_t i = 0; i < int4_width(head_dim); i += 32) {
    uint8_t* to = block + 8 * i + 64 * (lane / 4) + lane % 4;
    for (int64_t j = 0; j < 16; ++j) {
      to[4 * j] = static_cast<uint8_t>(u[i + j] | u[i + 16 + j] << 4);
    }
  }
}

}  // namespace lowbit
