#include "kernels/bindings/checks.h"

#include <span>

namespace lowbit {
namespace {

std::string shape_text(std::span<const int64_t> sizes) {
  std::string text = "[";
  for (const int64_t size : sizes) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  }
  return text + "]";
}

}  // namespace

void fail(const char* op, const std::string& what) {
  throw CallError(std::string("lowbit::") + op + ": " + what);
}

void expect(const char* op, const char* name, const TensorRef& t, Type type,
            std::initializer_list<int64_t> sizes) {
  bool fits = t.type == type && t.sizes.size() == sizes.size();
  for (size_t i = 0; fits && i < sizes.size(); ++i) {
    const int64_t wanted = sizes.begin()[i];
    fits = wanted < 0 || t.sizes[i] == wanted;
  }
  if (!fits) {
    fail(op, std::string(name) + " has shape " + shape_text(t.sizes) +
                 " or a type that does not fit; " + shape_text({sizes.begin(), sizes.size()}) +
                 " is wanted");
  }
}

PackedStack packed(const char* op, const TensorRef& weight) {
  expect(op, "weight", weight, Type::uint8, {-1});
  PackedStack stack;
  const std::string error = stack.view(weight.data, static_cast<size_t>(weight.sizes[0]));
  if (!error.empty()) fail(op, error);
  return stack;
}

void expect_a8wx(const char* op, const PackedWeight& weight, bool token_scales) {
  if (weight.format.kind != Kind::integer) fail(op, "the weight is not of packed integers");
  if (token_scales && weight.int8_scales()) {
    fail(op, "the weight has int8 scales, which take activations with a scale a group");
  }
}

void expect_wx(const char* op, const PackedWeight& weight) {
  const uint32_t bits = weight.format.bits;
  if (weight.format.kind != Kind::integer || (bits != 4 && bits != 8)) {
    fail(op, "the weight is not of packed integers of 4 or 8 bits");
  }
  if (weight.int8_scales()) fail(op, "the weight has int8 scales: an operator *_a8wx takes those");
}

void expect_fp(const char* op, const PackedWeight& weight) {
  if (weight.format.kind == Kind::integer) fail(op, "the weight is of packed integers");
}

float number(const char* op, const char* name, double value, double least) {
  const auto given = static_cast<float>(value);
  if (!(given >= least) || !std::isfinite(given)) {
    fail(op, std::string(name) + " is " + std::to_string(value) + "; a number is wanted" +
                 (least == 0 ? ", 0 or more" : ""));
  }
  return given;
}
}  // namespace lowbit
