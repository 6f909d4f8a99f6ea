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
  return {{"schema_version", "1"},
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
          {"key_cache_shape", "[2, 8, 64]"},
          {"value_cache_shape", "[2, 64, 8]"},
          {"cache_dtype", "float32"},
          {"n_caches", "4"}};
}

Metadata parse(const StringMap& map, std::string_view backend = "aoti") {
  return parse_metadata(map, "toy.pt2", backend);
}

Metadata parse_with(const char* key, const char* value) {
  StringMap map = good();
  map[key] = value;
  return parse(map);
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
  CHECK_EQ(m.key_cache_shape, (std::vector<int64_t>{2, 8, 64}));
  CHECK_EQ(m.value_cache_shape, (std::vector<int64_t>{2, 64, 8}));
}

TEST(each_missing_key_is_named) {
  for (const auto& [key, value] : good()) {
    StringMap map = good();
    map.erase(key);
    CHECK_THROWS(Error, parse(map), "toy.pt2", key, "missing", "export");
  }
}

TEST(executorch_needs_no_cache_form) {
  StringMap map = good();
  map["backend"] = "executorch";
  for (const char* key : {"runtime", "targets", "host_functions", "host_interface", "weights",
                          "key_cache_shape", "value_cache_shape", "cache_dtype", "n_caches"}) {
    map.erase(key);
  }
  CHECK_EQ(parse(map, "executorch").vocab_size, 300);
  map["delegate"] = "stock";  // calls no operators of ours
  map.erase("operators_version");
  CHECK_EQ(parse(map, "executorch").vocab_size, 300);
}

TEST(versions_and_backend) {
  CHECK_THROWS(Error, parse_with("schema_version", "5"), "schema 5", "newer", "up to 4");
  CHECK_THROWS(Error, parse_with("schema_version", "one"), "schema_version", "'one'");
  CHECK_THROWS(Error, parse_with("kernel_layout_version", "9"), "layout version 9", "newer",
               "up to 4");
  CHECK_THROWS(Error, parse_with("kernel_layout_version", "x"), "kernel_layout_version", "'x'");
  CHECK_THROWS(Error, parse_with("operators_version", "1"), "operators of version 1",
               "export the model again");
  CHECK_THROWS(Error, parse_with("operators_version", "99"), "operators of version 99");
  CHECK_THROWS(Error, parse_with("operators_version", ""), "operators_version", "''");
  CHECK_THROWS(Error, parse_with("backend", "executorch"), "'executorch'", "'aoti'");
  StringMap newer = {{"schema_version", "7"}};  // of which nothing else is known
  CHECK_THROWS(Error, parse(newer), "newer");
}

TEST(values_that_are_no_sense_are_named) {
  for (const char* key : {"vocab_size", "context_length", "max_chunk", "max_rows", "n_layers",
                          "n_heads", "n_kv_heads", "head_dim", "dim", "n_caches"}) {
    for (const char* value : {"", "abc", "-1", "0", "1.5", "12x", " 3", "99999999999999999999"}) {
      CHECK_THROWS(Error, parse_with(key, value), key, std::string("'") + value + "'", "integer");
    }
  }
  CHECK_THROWS(Error, parse_with("max_chunk", "65"), "1 to 64");
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
    CHECK_THROWS(Error, parse_with(key, "[]"), key);
    CHECK_THROWS(Error, parse_with(key, "[1, 1, 1, 1, 1, 1, 1, 1, 1]"), key, "eight");
    CHECK_THROWS(Error, parse_with(key, "[60000000, 60000000, 8]"), "memory");
  }
  CHECK_THROWS(Error, parse_with("n_caches", "6"), "2 layers");
}

CHECK_MAIN()
