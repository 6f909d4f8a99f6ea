// Packing and unpacking: the layout of layout.h, byte by byte and independent of the kernels.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "kernels/layout.h"

namespace lowbit {
namespace {

constexpr int kMaxPlanes = 3;

struct Planes {
  int count;
  int widths[kMaxPlanes];  // the low plane first
};

Planes planes_of(uint32_t bits) {
  switch (bits) {
    case 3: return {2, {2, 1, 0}};
    case 5: return {2, {4, 1, 0}};
    case 6: return {2, {4, 2, 0}};
    case 7: return {3, {4, 2, 1}};
    default: return {1, {static_cast<int>(bits), 0, 0}};
  }
}

// Calls visit(byte offset in the 32-column block, shift in that byte, plane's shift in the value,
// plane's width) for each plane of the value at row `r`, column `k` of the block.
template <class Visit>
void for_each_plane(const Planes& planes, int64_t r, int64_t k, Visit visit) {
  const int64_t quad = k / 4, byte = 4 * r + k % 4;
  int64_t plane_at = 0;
  int value_shift = 0;
  for (int p = 0; p < planes.count; ++p) {
    const int width = planes.widths[p];
    const int quads_per_vector = 8 / width;
    visit(plane_at + quad / quads_per_vector * 64 + byte,
          static_cast<int>(quad % quads_per_vector) * width, value_shift, width);
    plane_at += width * 64;
    value_shift += width;
  }
}

void write_header(const PackedWeight& w, int exponent, size_t bytes, uint8_t* out) {
  const Header header{"LOWBITW",      layout_version(w.format), w.format.kind, w.format.bits,
                      w.format.group_size, w.format.zeros,      exponent,
                      static_cast<uint64_t>(w.rows),            static_cast<uint64_t>(w.columns),
                      bytes,          w.format.scales,          0};
  std::memcpy(out, &header, sizeof(header));
}

// The power of two that brings the largest magnitude to 2^13..2^14, where float16 has the most
// room below.
int common_exponent(const float* values, int64_t n, const char* what) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(values[i])) {
      throw std::invalid_argument(std::string(what) + " " + std::to_string(i) + " is not finite");
    }
    largest = std::max(largest, std::fabs(values[i]));
  }
  if (largest == 0) return -126;
  return std::clamp(std::ilogb(largest) - 13, -126, 127);
}

uint16_t scaled_half(float value, int exponent) {
  return float_to_half(std::ldexp(value, -exponent));
}

// The steps of rows of int8 scales [N, G]: a 127th of each row's largest.
std::vector<float> steps_of(const float* scales, int64_t rows, int64_t groups) {
  std::vector<float> steps(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row) {
    float largest = 0;
    for (int64_t g = 0; g < groups; ++g) {
      largest = std::max(largest, std::fabs(scales[row * groups + g]));
    }
    steps[static_cast<size_t>(row)] = largest / 127;
  }
  return steps;
}

int8_t in_steps(float scale, float step) {
  if (step == 0) return 0;
  return static_cast<int8_t>(std::clamp(std::nearbyint(scale / step), -127.0f, 127.0f));
}

}  // namespace

void pack_integer(const Format& format, int64_t rows, int64_t columns, const uint8_t* values,
                  const float* scales, const float* zeros, void* out) {
  const size_t bytes = packed_size(format, rows, columns);
  const bool stored_zeros = format.zeros == Zeros::integer || format.zeros == Zeros::real;
  if (format.kind != Kind::integer || (zeros != nullptr) != stored_zeros) {
    throw std::invalid_argument("zeros are given where the format has none, or the other way round");
  }
  const PackedWeight w = layout_of(format, rows, columns);
  const int64_t n_groups = rows * w.groups;
  int exponent = common_exponent(scales, n_groups, "scale");
  std::vector<float> steps;
  if (w.int8_scales()) {
    steps = steps_of(scales, rows, w.groups);
    exponent = common_exponent(steps.data(), rows, "step");
  }
  if (format.zeros == Zeros::real) {
    exponent = std::max(exponent, common_exponent(zeros, n_groups, "zero"));
  }
  const auto limit = static_cast<int>((1u << format.bits) - 1);
  const auto middle = static_cast<uint8_t>(1u << (format.bits - 1));
  const int64_t steps_of_u = format.zeros == Zeros::between ? 2 : 1;
  const Planes planes = planes_of(format.bits);

  auto* bytes_out = static_cast<uint8_t*>(out);
  std::memset(bytes_out, 0, bytes);
  write_header(w, exponent, bytes, bytes_out);
  for (int64_t row = 0; row < rows; ++row) {
    uint8_t* panel = bytes_out + kHeaderBytes + (row / kRowBlock) * w.panel_bytes;
    const int64_t r = row % kRowBlock;
    const float* row_scales = scales + row * w.groups;
    float step = 0;
    if (w.int8_scales()) {
      const uint16_t half = scaled_half(steps[static_cast<size_t>(row)], exponent);
      reinterpret_cast<uint16_t*>(panel)[r] = half;
      step = std::ldexp(half_to_float(half), exponent);
    }
    double sum = 0;
    for (int64_t g = 0; g < w.groups; ++g) {
      float scale = 0;  // as stored
      if (w.int8_scales()) {
        const int8_t scale_in_steps = in_steps(row_scales[g], step);
        reinterpret_cast<int8_t*>(panel + w.scales_at)[g * kRowBlock + r] = scale_in_steps;
      } else {
        const uint16_t half = scaled_half(row_scales[g], exponent);
        reinterpret_cast<uint16_t*>(panel + w.scales_at)[g * kRowBlock + r] = half;
        scale = half_to_float(half);
      }
      float zero = middle, offset = 0;
      if (format.zeros == Zeros::integer) {
        zero = zeros[row * w.groups + g];
        if (zero != std::nearbyint(zero) || zero < 0 || zero > static_cast<float>(limit)) {
          throw std::invalid_argument("zero " + std::to_string(zero) + " is not a whole number in 0.." +
                                      std::to_string(limit));
        }
        uint8_t* zeros_of = panel + w.zeros_at + r;
        if (w.half_byte_zeros()) {
          zeros_of[g / 2 * kRowBlock] |= static_cast<uint8_t>(static_cast<int>(zero) << g % 2 * 4);
        } else {
          zeros_of[g * kRowBlock] = static_cast<uint8_t>(zero);
        }
      } else if (format.zeros == Zeros::real) {
        const uint16_t half = scaled_half(zeros[row * w.groups + g], exponent);
        reinterpret_cast<uint16_t*>(panel + w.zeros_at)[g * kRowBlock + r] = half;
        offset = half_to_float(half);
      }
      const int64_t begin = g * format.group_size;
      const int64_t end = std::min(begin + format.group_size, columns);
      int64_t group_sum = 0;
      for (int64_t k = begin; k < end; ++k) {
        const int value = values[row * columns + k];
        if (value > limit) {
          throw std::invalid_argument("value " + std::to_string(value) + " does not fit in " +
                                      std::to_string(format.bits) + " bits");
        }
        group_sum += steps_of_u * value;
        uint8_t* block = panel + w.data_at + k / kColumnBlock * format.bits * 64;
        for_each_plane(planes, r, k % kColumnBlock, [&](int64_t at, int shift, int from, int width) {
          block[at] |= static_cast<uint8_t>((value >> from & ((1 << width) - 1)) << shift);
        });
      }
      const auto count = static_cast<double>(end - begin);
      sum += scale * (static_cast<double>(group_sum) - count * zero) + count * offset;
    }
    if (!w.int8_scales()) reinterpret_cast<float*>(panel)[r] = static_cast<float>(sum);
  }
}

void pack_float(const Format& format, int64_t rows, int64_t columns, const float* values,
                void* out) {
  const size_t bytes = packed_size(format, rows, columns);
  if (format.kind == Kind::integer) {
    throw std::invalid_argument("pack_float takes a float kind");
  }
  const PackedWeight w = layout_of(format, rows, columns);
  auto* bytes_out = static_cast<uint8_t*>(out);
  std::memset(bytes_out, 0, bytes);
  write_header(w, 0, bytes, bytes_out);
  for (int64_t row = 0; row < rows; ++row) {
    uint8_t* panel = bytes_out + kHeaderBytes + (row / kRowBlock) * w.panel_bytes;
    const int64_t r = row % kRowBlock;
    const float* from = values + row * columns;
    for (int64_t k = 0; k < columns; ++k) {
      const int64_t at = k * kRowBlock + r;
      if (format.kind == Kind::float32) {
        reinterpret_cast<float*>(panel)[at] = from[k];
      } else if (format.kind == Kind::float16) {
        reinterpret_cast<uint16_t*>(panel)[at] = float_to_half(from[k]);
      } else {
        const auto bits = std::bit_cast<uint32_t>(from[k]);
        const bool nan = (bits & 0x7fffffff) > 0x7f800000;
        const uint32_t rounded = nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
        reinterpret_cast<uint16_t*>(panel)[at] = static_cast<uint16_t>(rounded >> 16);
      }
    }
  }
}

size_t stack_size(std::span<const std::span<const uint8_t>> weights) {
  size_t bytes = kHeaderBytes;
  for (const std::span<const uint8_t> weight : weights) bytes += weight.size();
  return bytes;
}

void pack_stack(std::span<const std::span<const uint8_t>> weights, void* out) {
  StackHeader header{"LOWBITS", kStackVersion, static_cast<uint32_t>(weights.size()), 0, 0,
                     stack_size(weights), {}};
  auto* at = static_cast<uint8_t*>(out) + kHeaderBytes;
  for (const std::span<const uint8_t> weight : weights) {
    PackedWeight w;
    const std::string error = view(weight.data(), weight.size(), &w);
    if (!error.empty()) throw std::invalid_argument(error);
    header.rows += static_cast<uint64_t>(w.rows);
    header.columns = static_cast<uint64_t>(w.columns);
    at = std::copy(weight.begin(), weight.end(), at);
  }
  std::memcpy(out, &header, sizeof(header));
  PackedStack stack;
  const std::string error = stack.view(out, header.bytes);
  if (!error.empty()) throw std::invalid_argument(error);
}

void unpack_row(const PackedWeight& w, int64_t row, float* values) {
  const uint8_t* panel = w.panel(row / kRowBlock);
  const int64_t r = row % kRowBlock;
  if (w.format.kind == Kind::float32) {
    const auto* from = reinterpret_cast<const float*>(panel);
    for (int64_t k = 0; k < w.columns; ++k) values[k] = from[k * kRowBlock + r];
    return;
  }
  if (w.format.kind != Kind::integer) {
    const auto* from = reinterpret_cast<const uint16_t*>(panel);
    const bool half = w.format.kind == Kind::float16;
    for (int64_t k = 0; k < w.columns; ++k) {
      const uint16_t bits = from[k * kRowBlock + r];
      values[k] = half ? half_to_float(bits) : std::bit_cast<float>(uint32_t{bits} << 16);
    }
    return;
  }
  const uint32_t bits = w.format.bits;
  const Planes planes = planes_of(bits);
  const int steps_of_u = w.format.zeros == Zeros::between ? 2 : 1;
  const float step =
      w.int8_scales() ? half_to_float(reinterpret_cast<const uint16_t*>(panel)[r]) : 0;
  for (int64_t g = 0; g < w.groups; ++g) {
    const uint8_t* scales = panel + w.scales_at;
    const float scale =
        w.int8_scales()
            ? static_cast<float>(reinterpret_cast<const int8_t*>(scales)[g * kRowBlock + r]) * step
            : half_to_float(reinterpret_cast<const uint16_t*>(scales)[g * kRowBlock + r]);
    int zero = 1 << (bits - 1);
    float offset = 0;
    if (w.format.zeros == Zeros::integer) {
      const uint8_t* zeros_of = panel + w.zeros_at + r;
      zero = w.half_byte_zeros() ? zeros_of[g / 2 * kRowBlock] >> g % 2 * 4 & 0xf
                                 : zeros_of[g * kRowBlock];
    } else if (w.format.zeros == Zeros::real) {
      offset = half_to_float(
          reinterpret_cast<const uint16_t*>(panel + w.zeros_at)[g * kRowBlock + r]);
    }
    const int64_t begin = g * w.format.group_size;
    const int64_t end = std::min<int64_t>(begin + w.format.group_size, w.columns);
    for (int64_t k = begin; k < end; ++k) {
      const uint8_t* block = panel + w.data_at + k / kColumnBlock * bits * 64;
      int value = 0;
      for_each_plane(planes, r, k % kColumnBlock, [&](int64_t at, int shift, int to, int width) {
        value |= (block[at] >> shift & ((1 << width) - 1)) << to;
      });
      values[k] = (static_cast<float>(steps_of_u * value - zero) * scale + offset) * w.scale;
    }
  }
}

void unpack(const PackedWeight& weight, float* values) {
  for (int64_t row = 0; row < weight.rows; ++row) {
    unpack_row(weight, row, values + row * weight.columns);
  }
}

}  // namespace lowbit
