// The calls of a mixture of experts.

#include "kernels/bindings/calls.h"
#include "kernels/bindings/checks.h"
#include "kernels/bindings/operators.h"

namespace lowbit {
namespace {

void expect_count(const char* op, int64_t experts) {
  if (experts < 1 || experts > kMaxExperts) {
    fail(op, std::to_string(experts) + " experts are not in 1.." + std::to_string(kMaxExperts));
  }
}

struct Routed {
  Routes routes;
  ExpertRows rows;
};

Routed check_routes(const char* op, const TensorRef& routes, int64_t experts) {
  expect_count(op, experts);
  expect(op, "routes", routes, Type::float32, {-1, -1});
  const int64_t width = routes.sizes[1];
  if (width < 2 || width % 2 != 0 || width / 2 > experts || routes.sizes[0] > INT32_MAX / width) {
    fail(op, std::to_string(routes.sizes[0]) + " routes of width " + std::to_string(width) +
                 " are none to " + std::to_string(experts) + " experts");
  }
  Routed found{{data<const float>(routes), routes.sizes[0], width / 2}, {}};
  if (!found.rows.count(found.routes, experts)) {
    fail(op, "routes has a number that is no expert's of 0.." + std::to_string(experts - 1));
  }
  return found;
}

struct Experts {
  ExpertRows rows;
  PackedWeight weight;
};

Experts check_experts(const char* op, const TensorRef& x, const TensorRef& weight,
                      const TensorRef* bias, const TensorRef& routes, int64_t experts,
                      int64_t out_features, const TensorRef& out) {
  const ExpertRows rows = check_routes(op, routes, experts).rows;
  const PackedStack stack = packed(op, weight);
  const PackedWeight& w = stack.weights()[0];
  if (stack.weights().size() > 1) fail(op, "the weight is a stack, which experts are not");
  if (out_features < 1 || out_features % kRowBlock != 0 || w.rows % out_features != 0 ||
      w.rows / out_features != experts) {
    fail(op, "a weight of " + std::to_string(w.rows) + " rows is not that of " +
                 std::to_string(experts) + " experts of " + std::to_string(out_features) +
                 ", a multiple of " + std::to_string(kRowBlock));
  }
  expect(op, "x", x, Type::float32, {rows.total(), w.columns});
  expect(op, "out", out, Type::float32, {rows.total(), out_features});
  if (bias != nullptr) expect(op, "bias", *bias, Type::float32, {w.rows});
  return {rows, w};
}

}  // namespace

namespace calls {

void call_route(Host& host, TensorRef logits, int64_t chosen, bool renormalize, TensorRef out) {
  const char* op = "route";
  expect(op, "logits", logits, Type::float32, {-1, -1});
  const int64_t experts = logits.sizes[1];
  expect_count(op, experts);
  if (chosen < 1 || chosen > experts) {
    fail(op, std::to_string(chosen) + " of " + std::to_string(experts) + " experts");
  }
  expect(op, "out", out, Type::float32, {logits.sizes[0], 2 * chosen});
  route(host, data<const float>(logits), logits.sizes[0], experts, chosen, renormalize,
        data<float>(out));
}

void call_dispatch(Host& host, TensorRef x, TensorRef routes, int64_t experts, int64_t chosen,
                   TensorRef out) {
  const char* op = "dispatch";
  const Routed found = check_routes(op, routes, experts);
  if (found.routes.chosen != chosen) {
    fail(op, "routes to " + std::to_string(found.routes.chosen) + " experts a token, not to " +
                 std::to_string(chosen));
  }
  expect(op, "x", x, Type::float32, {found.routes.tokens, -1});
  expect(op, "out", out, Type::float32, {found.rows.total(), x.sizes[1]});
  dispatch(host, data<const float>(x), x.sizes[1], found.routes, found.rows, data<float>(out));
}

void call_experts_a8wx(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias,
                       TensorRef routes, int64_t experts, int64_t out_features, bool token_scales,
                       TensorRef out) {
  const char* op = "experts_a8wx";
  const Experts e = check_experts(op, x, weight, bias, routes, experts, out_features, out);
  expect_a8wx(op, e.weight, token_scales);
  experts_a8wx(host, data<const float>(x), e.rows, e.weight,
               token_scales ? ActivationScales::token : ActivationScales::group,
               data<const float>(bias), data<float>(out));
}

void call_experts_wx(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias,
                     TensorRef routes, int64_t experts, int64_t out_features, TensorRef out) {
  const char* op = "experts_wx";
  const Experts e = check_experts(op, x, weight, bias, routes, experts, out_features, out);
  expect_wx(op, e.weight);
  experts_wx(host, data<const float>(x), e.rows, e.weight, data<const float>(bias),
             data<float>(out));
}

void call_experts_fp(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias,
                     TensorRef routes, int64_t experts, int64_t out_features, TensorRef out) {
  const char* op = "experts_fp";
  const Experts e = check_experts(op, x, weight, bias, routes, experts, out_features, out);
  expect_fp(op, e.weight);
  experts_fp(host, data<const float>(x), e.rows, e.weight, data<const float>(bias),
             data<float>(out));
}

void call_combine(Host& host, TensorRef x, TensorRef routes, int64_t experts, TensorRef out) {
  const char* op = "combine";
  const Routed found = check_routes(op, routes, experts);
  expect(op, "x", x, Type::float32, {found.rows.total(), -1});
  expect(op, "out", out, Type::float32, {found.routes.tokens, x.sizes[1]});
  combine(host, data<const float>(x), x.sizes[1], found.routes, found.rows, data<float>(out));
}

}  // namespace calls
}  // namespace lowbit
