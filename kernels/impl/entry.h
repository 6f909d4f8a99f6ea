#pragma once

#include "kernels/impl/attention.h"
#include "kernels/impl/elementwise.h"
#include "kernels/impl/linear_a8wx.h"
#include "kernels/impl/linear_float.h"
#include "kernels/impl/log_softmax.h"
#include "kernels/impl/peak.h"
#include "kernels/impl/quantize.h"
#include "kernels/impl/rotary.h"
#include "kernels/impl/route.h"
#include "kernels/isa.h"

namespace lowbit {
namespace {

// The kernels of the table's entries over the virtual vector V.
template <class V>
constexpr FloatKernels make_floats() {
  return {.linear_wx = linear_wx_range<V>,
          .linear_fp = linear_fp_range<V>,
          .group_sums = group_sums_row<V>,
          .rms_norm = rms_norm_row<V>,
          .layer_norm = layer_norm_row<V>,
          .activate = activate_row<V>,
          .xielu = xielu_row<V>,
          .gate_mul = gate_mul_row<V>,
          .add = add_row<V>,
          .softcap = softcap_row<V>,
          .power_sum = power_sum_row<V>,
          .route = route_row<V>,
          .add_scaled = add_scaled_row<V>,
          .rotate_and_cache = rotate_and_cache<V>,
          .attend = attend<V>,
          .attend_chunk = attend_chunk<V>,
          .merge_chunks = merge_chunks<V>,
          .turn = turn<V>,
          .read_peak = read_peak<V>};
}

template <class V>
constexpr Isa make_entry(const char* name, bool (*supported)(), const FloatKernels& floats) {
  return {.name = name,
          .supported = supported,
          .tile = tile_of<V>,
          .quantize = quantize_tile<V>,
          .linear_a8wx = linear_a8wx_range<V>,
          .dot_peak = dot_peak<V>,
          .floats = &floats};
}

}  // namespace
}  // namespace lowbit
