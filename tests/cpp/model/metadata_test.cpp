#include "model/metadata.h"

#include "kernels/bindings/interface.h"
#include "system/error.h"
#include "tests/cpp/check.h"

using namespace runner;

namespace {

const char* const kSampling = R"({
  "temperature": 0.6, "top_k": 40, "top_p": null, "repetition_penalty": 1.1,
  "logit_bias": [[[3, 4], -2.5]], "bad_words_ids": [[5], [6, 7]],
  "begin_suppress_tokens": [8], "stop_strings": ["\n\n"]})";

StringMap good() {
  return {{"schema_version", "6"},
          {"backend", "aoti"},
          {"model_name", "toy"},
          {"model_family", "llama"},
          {"vocab_size", "300"},
          {"context_length", "64"},
          {"max_chunk", "16"},
          {"max_rows", "4"},
          {"n_layers", "2"},
          {"n_heads", "4"},
          {"n_kv_heads", "2"},
          {"head_dim", "8"},
          {"dim", "32"},
          {"dtype", "bfloat16"},
          {"quantization", "{}"},
          {"tokenizer_kind", "tiktoken"},
          {"tokenizer_size", "10"},
          {"n_pieces", "290"},
          {"bos_id", "-1"},
          {"eos_id", "2"},
          {"stop_ids", "[2, 5]"},
          {"add_bos", "true"},
          {"chat", "{}"},
          {"sampling", kSampling},
          {"exporter_version", "0.1"},
          {"torch_version", "2"},
          {"torchao_version", "0"},
          {"executorch_version", "1"},
          {"checkpoint_digest", "ab"},
          {"kernel_layout_version", "1"},
          {"operators_version", std::to_string(lowbit::kInterfaceVersion)},
          {"delegate", "lowbit"},
          {"runtime", "lean"},
          {"targets", R"([{"name": "x86-64-v3", "machine": "x86_64", "cpu_features": ["avx2", "fma"],
                           "folder": "model"}])"},
          {"host_functions", R"(["aoti_torch_get_dim"])"},
          {"host_interface", "2.13/2"},
          {"weights", R"([{"name": "w", "dtype": "float16", "shape": [3, 5], "offset": 64}])"},
          {"state", R"({"layers": [{"kv_heads": 2, "head_dim": 8, "rope": 0},
                                   {"kv_heads": 1, "head_dim": 16, "rope": -1}],
                        "frequencies": [[1.0, 0.25]]})"},
          {"longest_context", "128"},
          {"max_segments", "7"},
          {"model_digest", "cd"},
          {"cache_dtype", "float32"}};
}

// On stock operators, with the caches as inputs.
StringMap stock() {
  StringMap map = good();
  for (const char* key : {"operators_version", "state", "longest_context", "max_segments",
                          "model_digest"}) {
    map.erase(key);
  }
  map["delegate"] = "stock";
  map["key_cache_shape"] = "[2, 8, 64]";
  map["value_cache_shape"] = "[2, 64, 8]";
  map["n_caches"] = "4";
  return map;
}

Metadata parse(const StringMap& map, std::string_view backend = "aoti") {
  return parse_metadata(map, "toy.pt2", backend);
}

Metadata parse_with(const char* key, const char* value, StringMap map = good()) {
  map[key] = value;
  return parse(map);
}

Metadata parse_stock_with(const char* key, const char* value) {
  return parse_with(key, value, stock());
}

}  // namespace

TEST(good_metadata_is_read) {
  const Metadata m = parse(good());
  CHECK_EQ(m.model_name, "toy");
  CHECK_EQ(m.vocab_size, 300);
  CHECK_EQ(m.max_rows, 4);
  CHECK_EQ(m.bos_id, -1);
  CHECK_EQ(m.stop_ids, (std::vector<int64_t>{2, 5}));
  CHECK(m.add_bos);
  CHECK_EQ(*m.sampling.temperature, 0.6);
  CHECK_EQ(*m.sampling.top_k, 40);
  CHECK_EQ(*m.sampling.repetition_penalty, 1.1);
  CHECK(*m.sampling.logit_bias == (std::vector<TokenBias>{{{3, 4}, -2.5f}}));
  CHECK(*m.sampling.bad_words_ids == (std::vector<std::vector<int32_t>>{{5}, {6, 7}}));
  CHECK_EQ(*m.sampling.begin_suppress_tokens, std::vector<int32_t>{8});
  CHECK_EQ(*m.sampling.stop_strings, std::vector<std::string>{"\n\n"});
  CHECK(!m.sampling.top_p && !m.sampling.min_p);
  CHECK(m.lean);
  CHECK_EQ(m.targets.size(), size_t{1});
  CHECK_EQ(m.targets[0].machine, "x86_64");
  CHECK_EQ(m.targets[0].cpu_features, (std::vector<std::string>{"avx2", "fma"}));
  CHECK_EQ(m.host_functions, (std::vector<std::string>{"aoti_torch_get_dim"}));
  CHECK_EQ(m.weights[0].shape, (std::vector<int64_t>{3, 5}));
  CHECK_EQ(m.weights[0].offset, uint64_t{64});
  CHECK_EQ(m.weights[0].bytes, uint64_t{30});
  CHECK_EQ(m.state.layers.size(), size_t{2});
  CHECK(m.state.layers[0].kv_heads == 2 && m.state.layers[0].head_dim == 8);
  CHECK(m.state.layers[0].rope == 0 && m.state.layers[1].rope == lowbit::kNoRope);
  CHECK_EQ(m.state.ropes.size(), size_t{1});
  CHECK_EQ(m.state.ropes[0].frequencies, (std::vector<float>{1.0f, 0.25f}));
  CHECK(m.state.ropes[0].factor == 1 && !m.state.ropes[0].is_long(lowbit::kMostContext));
  CHECK(m.longest_context == 128 && m.max_segments == 7 && m.model_digest == "cd");
}

TEST(stock_operators_have_their_caches_in_the_graph) {
  const Metadata m = parse(stock());
  CHECK_EQ(m.key_cache_shape, (std::vector<int64_t>{2, 8, 64}));
  CHECK_EQ(m.value_cache_shape, (std::vector<int64_t>{2, 64, 8}));
  CHECK(m.state.layers.empty() && m.longest_context == 64 && m.max_segments == 1);
  StringMap older = stock();
  older["schema_version"] = "4";
  CHECK_EQ(parse(older).n_caches, 4);
}

TEST(each_missing_key_is_named) {
  for (const StringMap& whole : {good(), stock()}) {
    for (const auto& [key, value] : whole) {
      StringMap map = whole;
      map.erase(key);
      CHECK_THROWS(Error, parse(map), "toy.pt2", key, "missing", "export");
    }
  }
}

TEST(artifacts_with_the_cache_in_the_graph_name_the_line_that_exports_them_again) {
  CHECK_THROWS(Error, parse_with("schema_version", "4"), "older release",
               "python -m exporter MODEL --output-aoti-package toy.pt2");
  StringMap map = good();
  map["schema_version"] = "4";
  map["backend"] = "executorch";
  CHECK_THROWS(Error, parse_metadata(map, "toy.pte", "executorch"), "--output-pte toy.pte");
  map["backend"] = "aoti";
  CHECK_THROWS(Error, parse_metadata(map, "toy.so", "aoti"), "--output-dso toy.so");
}

TEST(states_that_cannot_be_are_named) {
  const auto state = [](const std::string& layers, const std::string& frequencies) {
    return R"({"layers": )" + layers + R"(, "frequencies": )" + frequencies + "}";
  };
  const std::string layer = R"({"kv_heads": 1, "head_dim": 8, "rope": 0})";
  const std::string two = "[" + layer + ", " + layer + "]";
  parse_with("state", state(two, "[[1, 2]]").c_str());
  for (const std::string& bad :
       {std::string("[]"), std::string("{}"), state("[" + layer + "]", "[[1]]"), state(two, "[]"),
        state(two, "[[1, 2, 3, 4, 5]]"), state(two, "[[-1]]"), state(two, "[[1e999]]"),
        state(two, "[1]"), state(two, "[[\"1\"]]"), state(two, "[{}]"), state(two, R"([{"frequencies": [1]}])"),
        state(two, R"([{"frequencies": [1], "factor": 0}])"),
        state(two, R"([{"frequencies": [1], "factor": 1, "short_context": -1, "long_frequencies": [1]}])"),
        state(two, R"([{"frequencies": [1], "factor": 1, "short_context": 16}])"),
        state(two, R"([{"frequencies": [1], "factor": 1, "query_factors": [1]}])"),
        state(two, R"([{"frequencies": [1], "factor": 1, "query_factors": [0.5], "query_span": 64}])"),
        state(two, R"([{"frequencies": [1], "factor": 1, "query_factors": [1, 1.5], "query_span": 0}])"),
        state(two, R"([{"frequencies": [1], "factor": 1, "query_factors": [1, 1.5], "query_span": 4}])"),
        state(two, R"([{"frequencies": [1], "factor": 1, "short_context": 16, "long_frequencies": []}])"), state("[1, 2]", "[[1]]"),
        state("[{}, {}]", "[[1]]"), state("[" + layer + R"(, {"kv_heads": 0, "head_dim": 8, "rope": 0}])", "[[1]]"),
        state("[" + layer + R"(, {"kv_heads": 1, "head_dim": 9000, "rope": 0}])", "[[1]]"),
        state("[" + layer + R"(, {"kv_heads": 1, "head_dim": 8, "rope": -2}])", "[[1]]"),
        state("[" + layer + R"(, {"kv_heads": 1.5, "head_dim": 8, "rope": 0}])", "[[1]]")}) {
    CHECK_THROWS(Error, parse_with("state", bad.c_str()), "state", "export");
  }
  CHECK_THROWS(Error, parse_with("longest_context", "63"), "64 to");
  CHECK_THROWS(Error, parse_with("cache_dtype", "bfloat16"), "float32, float16, int8");
  CHECK_THROWS(Error, parse_with("max_segments", "0"), "max_segments");
}

TEST(rotary_embeddings_have_a_factor_and_frequencies_of_long_contexts) {
  StringMap map = good();
  map["state"] = R"({"layers": [{"kv_heads": 1, "head_dim": 8, "rope": 0}, {"kv_heads": 1, "head_dim": 8, "rope": 0}],
      "frequencies": [{"frequencies": [1, 0.5], "factor": 1.25, "short_context": 64, "long_frequencies": [0.5, 0.25]}]})";
  const lowbit::Rope rope = parse(map).state.ropes[0];
  CHECK_EQ(rope.factor, 1.25f);
  CHECK_EQ(rope.of_context(64), (std::vector<float>{1.0f, 0.5f}));
  CHECK_EQ(rope.of_context(65), (std::vector<float>{0.5f, 0.25f}));
}

TEST(queries_may_have_factors_of_their_positions) {
  StringMap map = good();
  map["state"] = R"({"layers": [{"kv_heads": 1, "head_dim": 8, "rope": 0}, {"kv_heads": 1, "head_dim": 8, "rope": 0}],
      "frequencies": [{"frequencies": [1, 0.5], "factor": 1, "query_factors": [1, 1.25], "query_span": 512}]})";
  const lowbit::Rope rope = parse(map).state.ropes[0];
  CHECK_EQ(rope.query_factors, (std::vector<float>{1.0f, 1.25f}));
  CHECK_EQ(rope.query_span, 512);
  map["longest_context"] = "1025";
  CHECK_THROWS(Error, parse(map), "2 factors of queries, each of 512 positions", "context of 1025");
}

TEST(executorch_needs_no_cache_form) {
  StringMap map = good();
  map["backend"] = "executorch";
  for (const char* key : {"runtime", "targets", "host_functions", "host_interface", "weights"}) {
    map.erase(key);
  }
  CHECK_EQ(parse(map, "executorch").vocab_size, 300);
  map["delegate"] = "stock";  // calls no operators of ours
  for (const char* key : {"operators_version", "state", "cache_dtype"}) map.erase(key);
  CHECK_EQ(parse(map, "executorch").vocab_size, 300);
}

TEST(versions_and_backend) {
  CHECK_THROWS(Error, parse_with("schema_version", "8"), "schema 8", "newer", "up to 7");
  CHECK_THROWS(Error, parse_with("schema_version", "one"), "schema_version", "'one'");
  CHECK_THROWS(Error, parse_with("kernel_layout_version", "9"), "layout version 9", "newer",
               "up to 4");
  CHECK_THROWS(Error, parse_with("kernel_layout_version", "x"), "kernel_layout_version", "'x'");
  CHECK_THROWS(Error, parse_with("operators_version", "1"), "operators of version 1",
               "export the model again");
  CHECK_THROWS(Error, parse_with("operators_version", "99"), "operators of version 99");
  CHECK_THROWS(Error, parse_with("operators_version", ""), "operators_version", "''");
  CHECK_THROWS(Error, parse_with("backend", "executorch"), "'executorch'", "'aoti'");
  StringMap newer = {{"schema_version", "8"}};  // of which nothing else is known
  CHECK_THROWS(Error, parse(newer), "newer");
}

TEST(values_that_are_no_sense_are_named) {
  for (const char* key : {"vocab_size", "context_length", "max_chunk", "max_rows", "n_layers",
                          "n_heads", "n_kv_heads", "head_dim", "dim", "longest_context",
                          "max_segments"}) {
    for (const char* value : {"", "abc", "-1", "0", "1.5", "12x", " 3", "99999999999999999999"}) {
      CHECK_THROWS(Error, parse_with(key, value), key, std::string("'") + value + "'", "integer");
    }
  }
  CHECK_THROWS(Error, parse_with("max_rows", "17"), "1 to 16");
  CHECK_THROWS(Error, parse_with("bos_id", "300"), "-1 to 299");
  CHECK_THROWS(Error, parse_with("stop_ids", "[300]"), "stop_ids");
  CHECK_THROWS(Error, parse_with("stop_ids", "[1.5]"), "stop_ids");
  CHECK_THROWS(Error, parse_with("stop_ids", "[18446744073709551615]"), "stop_ids");
  CHECK_THROWS(Error, parse_with("stop_ids", "{}"), "list");
  CHECK_THROWS(Error, parse_with("stop_ids", "[1"), "list");
  CHECK_THROWS(Error, parse_with("add_bos", "yes"), "true, false");
  CHECK_THROWS(Error, parse_with("dtype", "int8"), "float32");
  CHECK_THROWS(Error, parse_with("delegate", "coreml"), "lowbit, xnnpack, stock");
  CHECK_THROWS(Error, parse_with("sampling", "[]"), "object");
  CHECK_THROWS(Error, parse_with("sampling", R"({"top_p": 2})"), "top_p");
  CHECK_THROWS(Error, parse_with("sampling", R"({"temperature": "hot"})"), "temperature");
  CHECK_THROWS(Error, parse_with("sampling", R"({"repetition_penalty": 0})"), "from 0.01 to 100");
  CHECK_THROWS(Error, parse_with("sampling", R"({"no_repeat_ngram_size": 1.5})"), "whole");
  CHECK_THROWS(Error, parse_with("sampling", R"({"logit_bias": {"3": 1}})"), "logit_bias");
  CHECK_THROWS(Error, parse_with("sampling", R"({"logit_bias": [[[3], null]]})"), "logit_bias");
  CHECK_THROWS(Error, parse_with("sampling", R"({"logit_bias": [[[3], 1e99]]})"), "logit_bias");
  CHECK_THROWS(Error, parse_with("sampling", R"({"bad_words_ids": [[1000000]]})"), "bad_words");
  CHECK_THROWS(Error, parse_with("sampling", R"({"begin_suppress_tokens": [-1]})"), "begin");
  CHECK_THROWS(Error, parse_with("sampling", R"({"stop_strings": [1]})"), "stop_strings");
  CHECK_THROWS(Error, parse_with("host_functions", "[1]"), "strings");
  CHECK_THROWS(Error, parse_with("runtime", "python"), "lean, torch");
  for (const char* targets : {"[]", "[1]", "{}", R"([{"name": "x"}])",
                              R"([{"name": 1, "machine": "m", "cpu_features": [], "folder": "f"}])"}) {
    CHECK_THROWS(Error, parse_with("targets", targets), "targets", "export");
  }
  for (const char* shape : {"[-1]", "[0, 1]", "5", "null", "{}", "[1, 1, 1, 1, 1, 1, 1, 1, 1]", "[1.5]", "\"3\"", "[2000000, 2000000]", "[9223372036854775807]"}) {
    const std::string weights =
        R"([{"name": "w", "dtype": "float32", "offset": 0, "shape": )" + std::string(shape) + "}]";
    CHECK_THROWS(Error, parse_with("weights", weights.c_str()), "weights", "export");
  }
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  for (const char* key : {"shape", "offset"}) {
    const std::string other = key == std::string("shape") ? R"("offset": 0)" : R"("shape": [1])";
    const std::string weights = R"([{"name": "w", "dtype": "float32", )" + other + ", \"" + key +
                                "\": " + deep + "}]";
    CHECK_THROWS(Error, parse_with("weights", weights.c_str()), "weights");
  }
  CHECK_THROWS(Error, parse_with("weights", R"([{"name": "w", "dtype": "int3", "shape": [1],
                                               "offset": 0}])"), "weights");
  for (const char* key : {"key_cache_shape", "value_cache_shape"}) {
    CHECK_THROWS(Error, parse_stock_with(key, "[]"), key);
    CHECK_THROWS(Error, parse_stock_with(key, "[1, 1, 1, 1, 1, 1, 1, 1, 1]"), key, "eight");
    CHECK_THROWS(Error, parse_stock_with(key, "[1000000, 1000000, 8]"), "memory");
  }
  CHECK_THROWS(Error, parse_stock_with("n_caches", "6"), "2 layers");
  CHECK_THROWS(Error, parse_stock_with("n_caches", "0"), "n_caches");
}

CHECK_MAIN()
