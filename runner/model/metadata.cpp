#include "model/metadata.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/bindings/interface.h"
#include "model/metadata_reader.h"
#include "model/state_metadata.h"
#include "system/error.h"

namespace runner {
namespace {

// Ranges beyond any real model: what lies outside comes from a damaged file, and would only turn
// into a failed allocation later.
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxContext = lowbit::kMostContext;
constexpr int64_t kMaxDim = 1 << 20;
constexpr int64_t kMaxLayers = 1 << 14;
constexpr int64_t kMaxCacheElements = int64_t{1} << 40;
constexpr uint64_t kMaxWeightBytes = uint64_t{1} << 40;
constexpr size_t kMaxDims = 8;  // of a tensor
constexpr int64_t kMaxTokenizerBytes = int64_t{1} << 30;

// What must be settled before any other key means anything.
void check_versions(const MetadataReader& in, const std::string& path, std::string_view backend) {
  const int64_t schema = in.integer(keys::kSchemaVersion, 1, 1'000'000);
  if (schema > kNewestSchemaVersion) {
    throw Error(path + ": artifact schema " + std::to_string(schema) +
                " is newer than this runner, which reads up to " +
                std::to_string(kNewestSchemaVersion) + "; use the runner of that release");
  }
  if (in.text(keys::kBackend) != backend) {
    throw Error(path + ": made for the backend '" + shortened(in.text(keys::kBackend)) +
                "', this is the runner for '" + std::string(backend) + "'");
  }
  const int64_t layout = in.integer(keys::kKernelLayoutVersion, 1, 1'000'000);
  if (layout > kNewestKernelLayoutVersion) {
    throw Error(path + ": kernel layout version " + std::to_string(layout) +
                " is newer than this runner, which reads up to " +
                std::to_string(kNewestKernelLayoutVersion) +
                "; export the model again or use the runner of that release");
  }
}

// The line that makes an artifact anew.
std::string export_line(const std::string& path, std::string_view backend) {
  const bool library = path.ends_with(".so");
  return "python -m exporter MODEL " +
         std::string(backend == kExecutorchBackend ? "--output-pte "
                     : library                     ? "--output-dso "
                                                   : "--output-aoti-package ") +
         path;
}

// A program's calls of our operators must be of the form that this runner's have.
void check_operators(const MetadataReader& in, const std::string& path, std::string_view backend) {
  if (in.integer(keys::kSchemaVersion, 1, 1'000'000) < kOldestStateSchema) {
    throw Error(path + ": made by an older release, which kept the cache in the graph; export it again: " +
                export_line(path, backend));
  }
  const int64_t version = in.integer(keys::kOperatorsVersion, 1, 1'000'000);
  if (version != lowbit::kInterfaceVersion) {
    in.fail("it calls operators of version " + std::to_string(version) +
            ", this runner's are of version " + std::to_string(lowbit::kInterfaceVersion));
  }
}

// Token ids of a list. `bad` says what is wrong and throws.
template <class F>
std::vector<int32_t> token_ids(const json& list, int64_t vocab_size, F bad) {
  if (!list.is_array()) bad();
  std::vector<int32_t> ids;
  for (const json& item : list) {
    if (!item.is_number_integer()) bad();
    const auto id = item.get<int64_t>();
    if (id < 0 || id >= vocab_size) bad();
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

SamplingSettings read_sampling(const MetadataReader& in, int64_t vocab_size) {
  constexpr const char* key = keys::kSampling;
  const json object = in.parsed(key, json::value_t::object, "a JSON object");
  const auto present = [&](const char* name) {
    const auto found = object.find(name);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  };
  const auto list = [&](const char* name, auto read) {
    const json* value = present(name);
    const auto bad = [&] { in.bad(key, std::string("a sensible list for ") + name); };
    if (value == nullptr) return;
    if (!value->is_array()) bad();
    read(*value, bad);
  };
  SamplingSettings settings;
  for (const NumberSetting& setting : number_settings()) {
    const json* value = present(setting.name);
    if (value == nullptr) continue;
    const double number = value->is_number() ? value->get<double>() : NAN;
    if (!setting.allows(number))
      in.bad(key, "for " + std::string(setting.name) + " " + setting.wanted());
    settings.*setting.member = number;
  }
  list("logit_bias", [&](const json& value, auto bad) {
    auto& biases = settings.logit_bias.emplace();
    for (const json& item : value) {
      if (!item.is_array() || item.size() != 2 || !item[1].is_number()) bad();
      biases.push_back({token_ids(item[0], vocab_size, bad), item[1].get<float>()});
      if (!std::isfinite(biases.back().bias)) bad();
    }
  });
  list("bad_words_ids", [&](const json& value, auto bad) {
    auto& words = settings.bad_words_ids.emplace();
    for (const json& item : value) words.push_back(token_ids(item, vocab_size, bad));
  });
  list("begin_suppress_tokens", [&](const json& value, auto bad) {
    settings.begin_suppress_tokens = token_ids(value, vocab_size, bad);
  });
  list("stop_strings", [&](const json& value, auto bad) {
    auto& texts = settings.stop_strings.emplace();
    for (const json& item : value) {
      if (!item.is_string()) bad();
      texts.push_back(item.get<std::string>());
    }
  });
  return settings;
}

std::vector<Target> read_targets(const MetadataReader& in) {
  constexpr const char* kWanted = "a JSON list of targets";
  const auto bad = [&] { in.bad(keys::kTargets, kWanted); };
  std::vector<Target> targets;
  for (const json& item : in.parsed(keys::kTargets, json::value_t::array, kWanted)) {
    if (!item.is_object()) bad();
    targets.push_back({member<std::string>(item, "name", bad),
                       member<std::string>(item, "machine", bad),
                       member<std::vector<std::string>>(item, "cpu_features", bad),
                       member<std::string>(item, "folder", bad)});
  }
  if (targets.empty()) bad();
  return targets;
}

// A size or an offset within weights.
template <class F>
uint64_t whole_number(const json& value, F bad) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxWeightBytes) bad();
  return value.get<uint64_t>();
}

uint64_t bytes_of(const std::string& dtype) {
  if (dtype == "uint8" || dtype == "int8" || dtype == "bool") return 1;
  if (dtype == "float16" || dtype == "bfloat16" || dtype == "int16") return 2;
  if (dtype == "float32" || dtype == "int32") return 4;
  if (dtype == "float64" || dtype == "int64") return 8;
  return 0;
}

std::vector<Weight> read_weights(const MetadataReader& in) {
  constexpr const char* kWanted = "a JSON list of weights";
  const auto bad = [&] { in.bad(keys::kWeights, kWanted); };
  std::vector<Weight> weights;
  for (const json& item : in.parsed(keys::kWeights, json::value_t::array, kWanted)) {
    if (!item.is_object()) bad();
    Weight weight;
    weight.name = member<std::string>(item, "name", bad);
    weight.dtype = member<std::string>(item, "dtype", bad);
    weight.offset = whole_number(child(item, "offset", bad), bad);
    weight.bytes = bytes_of(weight.dtype);
    if (weight.bytes == 0) bad();
    const json& shape = child(item, "shape", bad);
    if (!shape.is_array() || shape.size() > kMaxDims) bad();
    for (const json& element : shape) {
      const uint64_t size = whole_number(element, bad);
      if (size == 0 || weight.bytes > kMaxWeightBytes / size) bad();
      weight.bytes *= size;
      weight.shape.push_back(static_cast<int64_t>(size));
    }
    weights.push_back(std::move(weight));
  }
  return weights;
}

void check_cache_shape(const MetadataReader& in, const char* key, const std::vector<int64_t>& shape,
                       int64_t n_caches) {
  int64_t elements = n_caches;
  for (int64_t size : shape) {
    if (size > kMaxCacheElements / elements) in.bad(key, "a shape that fits memory");
    elements *= size;
  }
  if (shape.empty() || shape.size() > kMaxDims) in.bad(key, "one to eight dimensions");
}

void read_code(const MetadataReader& in, Metadata& m) {
  m.lean = in.one_of(keys::kRuntime, {"lean", "torch"}) == "lean";
  m.targets = read_targets(in);
  m.host_functions = in.strings(keys::kHostFunctions);
  m.host_interface = in.text(keys::kHostInterface);
  m.weights = read_weights(in);
  if (m.lowbit) return;
  m.key_cache_shape = in.integers(keys::kKeyCacheShape, 1, kMaxContext);
  m.value_cache_shape = in.integers(keys::kValueCacheShape, 1, kMaxContext);
  m.cache_dtype = in.one_of(keys::kCacheDtype, {"float32", "bfloat16", "float16"});
  m.n_caches = in.integer(keys::kCaches, 1, 2 * kMaxLayers);
  if (m.n_caches != 2 * m.n_layers) {
    in.bad(keys::kCaches, "two for each of " + std::to_string(m.n_layers) + " layers");
  }
  check_cache_shape(in, keys::kKeyCacheShape, m.key_cache_shape, m.n_caches);
  check_cache_shape(in, keys::kValueCacheShape, m.value_cache_shape, m.n_caches);
}

}  // namespace

Metadata parse_metadata(StringMap map, const std::string& path, std::string_view backend) {
  const MetadataReader in(map, path);
  check_versions(in, path, backend);

  Metadata m;
  m.model_name = in.text(keys::kModelName);
  m.model_family = in.text(keys::kModelFamily);
  m.vocab_size = in.integer(keys::kVocabSize, 1, kMaxVocab);
  m.context_length = in.integer(keys::kContextLength, 1, kMaxContext);
  m.max_chunk = in.integer(keys::kMaxChunk, 1, kMaxContext);
  m.max_rows = in.integer(keys::kMaxRows, 1, m.max_chunk);
  m.n_layers = in.integer(keys::kLayers, 1, kMaxLayers);
  m.n_heads = in.integer(keys::kHeads, 1, kMaxDim);
  m.n_kv_heads = in.integer(keys::kKvHeads, 1, m.n_heads);
  m.head_dim = in.integer(keys::kHeadDim, 1, kMaxDim);
  m.dim = in.integer(keys::kDim, 1, kMaxDim);
  m.dtype = in.one_of(keys::kDtype, {"float32", "bfloat16", "float16"});
  m.quantization = in.text(keys::kQuantization);
  m.lowbit = in.one_of(keys::kDelegate, {"lowbit", "xnnpack", "stock"}) == "lowbit";
  if (m.lowbit) check_operators(in, path, backend);
  m.tokenizer_kind = in.text(keys::kTokenizerKind);
  m.tokenizer_size = in.integer(keys::kTokenizerSize, 0, kMaxTokenizerBytes);
  m.n_pieces = in.integer(keys::kPieces, 0, kMaxVocab);
  m.bos_id = in.integer(keys::kBosId, -1, m.vocab_size - 1);
  m.eos_id = in.integer(keys::kEosId, -1, m.vocab_size - 1);
  m.stop_ids = in.integers(keys::kStopIds, 0, m.vocab_size - 1);
  m.add_bos = in.one_of(keys::kAddBos, {"true", "false"}) == "true";
  m.chat = in.text(keys::kChat);
  m.sampling = read_sampling(in, m.vocab_size);
  m.exporter_version = in.text(keys::kExporterVersion);
  m.torch_version = in.text(keys::kTorchVersion);
  m.torchao_version = in.text(keys::kTorchaoVersion);
  m.executorch_version = in.text(keys::kExecutorchVersion);
  m.checkpoint_digest = in.text(keys::kCheckpointDigest);
  m.longest_context = m.context_length;
  if (m.lowbit) read_state(in, m);
  if (backend == kAotiBackend) read_code(in, m);
  m.raw = std::move(map);
  return m;
}

void check_vocabulary(const Metadata& metadata, std::span<const int32_t> tokens) {
  for (int32_t id : tokens) {
    if (id < 0 || id >= metadata.vocab_size) {
      throw Error("token id " + std::to_string(id) +
                  " is outside the model's vocabulary; give ids from 0 to " +
                  std::to_string(metadata.vocab_size - 1) + ", or leave that token's text out");
    }
  }
}

}  // namespace runner
