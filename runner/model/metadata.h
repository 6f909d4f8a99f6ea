#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/state/layout.h"
#include "model/sampling_settings.h"

namespace runner {

// The keys of an artifact's metadata; exporter/artifact/metadata.py holds the same
// list.
namespace keys {
inline constexpr const char* kSchemaVersion = "schema_version";
inline constexpr const char* kBackend = "backend";
inline constexpr const char* kModelName = "model_name";
inline constexpr const char* kModelFamily = "model_family";
inline constexpr const char* kVocabSize = "vocab_size";
inline constexpr const char* kContextLength = "context_length";
inline constexpr const char* kMaxChunk = "max_chunk";
inline constexpr const char* kMaxRows = "max_rows";
inline constexpr const char* kLayers = "n_layers";
inline constexpr const char* kHeads = "n_heads";
inline constexpr const char* kKvHeads = "n_kv_heads";
inline constexpr const char* kHeadDim = "head_dim";
inline constexpr const char* kDim = "dim";
inline constexpr const char* kDtype = "dtype";
inline constexpr const char* kQuantization = "quantization";
inline constexpr const char* kTokenizerKind = "tokenizer_kind";
inline constexpr const char* kTokenizer = "tokenizer";
inline constexpr const char* kTokenizerSize = "tokenizer_size";
inline constexpr const char* kPieces = "n_pieces";
inline constexpr const char* kBosId = "bos_id";
inline constexpr const char* kEosId = "eos_id";
inline constexpr const char* kStopIds = "stop_ids";
inline constexpr const char* kAddBos = "add_bos";
inline constexpr const char* kChat = "chat";
inline constexpr const char* kSampling = "sampling";
inline constexpr const char* kExporterVersion = "exporter_version";
inline constexpr const char* kTorchVersion = "torch_version";
inline constexpr const char* kTorchaoVersion = "torchao_version";
inline constexpr const char* kExecutorchVersion = "executorch_version";
inline constexpr const char* kCheckpointDigest = "checkpoint_digest";
inline constexpr const char* kKernelLayoutVersion = "kernel_layout_version";
inline constexpr const char* kOperatorsVersion = "operators_version";
inline constexpr const char* kDelegate = "delegate";
inline constexpr const char* kSelfTest = "self_test";
// Artifacts on our operators only; kCacheDtype is of AOTInductor artifacts on stock ones, too.
inline constexpr const char* kState = "state";
inline constexpr const char* kLongestContext = "longest_context";
inline constexpr const char* kModelDigest = "model_digest";
inline constexpr const char* kMaxSegments = "max_segments";
inline constexpr const char* kCacheDtype = "cache_dtype";
// AOTInductor artifacts only.
inline constexpr const char* kRuntime = "runtime";
inline constexpr const char* kTargets = "targets";
inline constexpr const char* kHostFunctions = "host_functions";
inline constexpr const char* kHostInterface = "host_interface";
inline constexpr const char* kWeights = "weights";
// Of those, on stock operators only.
inline constexpr const char* kKeyCacheShape = "key_cache_shape";
inline constexpr const char* kValueCacheShape = "value_cache_shape";
inline constexpr const char* kCaches = "n_caches";
}  // namespace keys

// The keys that every artifact has, less the tokenizer itself.
inline constexpr std::array kCommonKeys = {
    keys::kSchemaVersion,
    keys::kBackend,
    keys::kModelName,
    keys::kModelFamily,
    keys::kVocabSize,
    keys::kContextLength,
    keys::kMaxChunk,
    keys::kMaxRows,
    keys::kLayers,
    keys::kHeads,
    keys::kKvHeads,
    keys::kHeadDim,
    keys::kDim,
    keys::kDtype,
    keys::kQuantization,
    keys::kDelegate,
    keys::kTokenizerKind,
    keys::kTokenizerSize,
    keys::kPieces,
    keys::kBosId,
    keys::kEosId,
    keys::kStopIds,
    keys::kAddBos,
    keys::kChat,
    keys::kSampling,
    keys::kExporterVersion,
    keys::kTorchVersion,
    keys::kTorchaoVersion,
    keys::kExecutorchVersion,
    keys::kCheckpointDigest,
    keys::kKernelLayoutVersion,
    keys::kOperatorsVersion,
};

inline constexpr int kNewestSchemaVersion = 7;
inline constexpr int kOldestStateSchema = 5;  // before, caches were in the graph
inline constexpr int kNewestKernelLayoutVersion = 4;

inline constexpr std::string_view kExecutorchBackend = "executorch";
inline constexpr std::string_view kAotiBackend = "aoti";

// What a compiled model's code was made for.
struct Target {
  std::string name;                       // as given to the exporter's --target
  std::string machine;                    // as `uname -m` says it: x86_64, aarch64
  std::vector<std::string> cpu_features;  // of /proc/cpuinfo; all must be there
  std::string folder;                     // of a package, where the code lies
};

// A weight of a compiled model, in the package's weights.
struct Weight {
  std::string name;   // in the exported program
  std::string dtype;  // as PyTorch calls it
  std::vector<int64_t> shape;
  uint64_t offset = 0, bytes = 0;
};

using StringMap = std::map<std::string, std::string>;

// An artifact's metadata, validated: every number is in a range the runner can work with.
struct Metadata {
  StringMap raw;  // every key as it was written
  std::string model_name, model_family;
  int64_t vocab_size = 0, max_chunk = 0, max_rows = 0, max_segments = 1;  // of a forward
  int64_t context_length = 0;   // where nobody says otherwise
  int64_t longest_context = 0;  // the model's own; on stock operators the same
  int64_t n_layers = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, dim = 0;
  std::string dtype, quantization;
  bool lowbit = false;  // runs on our own operators; else on the frameworks'
  lowbit::StateLayout state;  // no layers on stock operators, whose caches are in the graph
  std::string cache_dtype;    // where nobody says otherwise; "" in a .pte on stock operators
  std::string tokenizer_kind;
  int64_t tokenizer_size = 0, n_pieces = 0;
  int64_t bos_id = -1, eos_id = -1;  // -1: none
  std::vector<int64_t> stop_ids;
  bool add_bos = false;
  std::string chat;           // JSON, read by ChatTemplate
  SamplingSettings sampling;  // what the model's authors recommend
  std::string exporter_version, torch_version, torchao_version, executorch_version;
  std::string checkpoint_digest;
  std::string model_digest;  // of configuration and packed weights; "" on stock operators

  // AOTInductor artifacts only.
  bool lean = false;  // runs on aoti_host; else it needs libtorch
  std::vector<Target> targets;
  std::vector<std::string> host_functions;  // of the C interface, that the code calls
  std::string host_interface;               // the interface's version
  std::vector<Weight> weights;              // empty where the code holds them
  std::vector<int64_t> key_cache_shape, value_cache_shape;  // on stock operators
  int64_t n_caches = 0;
};

// Parses and validates the metadata of the artifact `path`, which `backend` will run. Throws Error
// that names the file, the key and its value.
Metadata parse_metadata(StringMap map, const std::string& path, std::string_view backend);

// Throws Error for the first of `tokens` that is not in the vocabulary.
void check_vocabulary(const Metadata& metadata, std::span<const int32_t> tokens);

}  // namespace runner
