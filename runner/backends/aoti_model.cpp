// Models of AOTInductor (.pt2 packages and bare .so libraries) on a host of our own, without
// libtorch. Weights are used where they lie in the mapped file.

#include <optional>

#include "backends/aoti_artifact.h"
#include "backends/aoti_host/bind.h"
#include "backends/aoti_host/container.h"
#include "kernels/lowbit.h"
#include "model/model.h"
#include "system/cpu_count.h"
#include "system/error.h"
#include "system/shared_pool.h"
#include "kernels/state/zero_memory.h"

namespace runner {
namespace {

using aoti_host::Container;
using aoti_host::Library;
using aoti_host::NamedTensor;
using aoti_host::Storage;
using aoti_host::Tensor;
using c10::ScalarType;

// Symbols of a bare library whose weights lie in it.
constexpr const char* kWeightsStart = "aoti_weights_start";
constexpr const char* kWeightsEnd = "aoti_weights_end";

ScalarType scalar_type(const std::string& name) {
  if (name == "bool") return ScalarType::Bool;
  if (name == "uint8") return ScalarType::Byte;
  if (name == "int8") return ScalarType::Char;
  if (name == "int16") return ScalarType::Short;
  if (name == "float16") return ScalarType::Half;
  if (name == "bfloat16") return ScalarType::BFloat16;
  if (name == "int32") return ScalarType::Int;
  if (name == "float32") return ScalarType::Float;
  if (name == "int64") return ScalarType::Long;
  return ScalarType::Double;  // the last that metadata lets through
}

// A dense tensor over memory that outlives it.
Tensor dense(void* data, ScalarType dtype, std::span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t elements = 1;
  for (size_t i = shape.size(); i-- > 0; elements *= shape[i]) strides[i] = elements;
  const auto bytes = static_cast<size_t>(elements) * aoti_host::element_size(dtype);
  return aoti_host::view(Storage::borrow(data, bytes), dtype, shape, strides, 0);
}

class AotiModel final : public Model {
 public:
  AotiModel(const std::string& path, const LoadOptions& options)
      : artifact_(open_artifact(path)) {
    if (options.metadata_only) return;
    const Target* target = aoti_host::linked_model() ? nullptr : &best_target(artifact_);
    if (target) target_ = target->name;
    check_functions();
    threads_ = thread_count(options.threads);
    shared_pool(threads_);
    if (metadata().lowbit) lowbit::isa_name();  // a LOWBIT_ISA that is not to be had fails here
    load(target);
    for (int64_t i = 0; i < metadata().n_caches; ++i) {
      const auto& shape = i % 2 == 0 ? metadata().key_cache_shape : metadata().value_cache_shape;
      const ScalarType type = scalar_type(metadata().cache_dtype);
      size_t bytes = aoti_host::element_size(type);
      for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
      cache_memory_.emplace_back(bytes);
      caches_.push_back(dense(cache_memory_.back().bytes().data(), type, shape));
    }
  }

  const Metadata& metadata() const override { return artifact_.metadata; }
  std::string_view tokenizer_table() const override { return artifact_.tokenizer; }
  int threads() const override { return threads_; }
  std::string isa() const override { return metadata().lowbit ? lowbit::isa_name() : target_; }

 protected:
  lowbit::Library library() const override { return lowbit::Library::aoti; }

  std::span<const float> run_graph(const Batch& batch, const OwnedState& state,
                                   std::vector<float>&) override {
    shared_pool(threads_);  // another model may have asked for other ones
    output_ = {};           // first, so that there is never room for two
    const int64_t chunk[] = {1, std::ssize(batch.tokens)}, one[] = {1},
                  pairs[] = {std::ssize(batch.segments) / 2, 2}, count[] = {std::ssize(batch.rows)};
    const int64_t number = metadata().lowbit ? state.handle() : state->position(batch.segments[0]);
    std::vector<Tensor> inputs = {view(batch.tokens, chunk)};
    if (metadata().lowbit) {
      inputs.push_back(view(batch.segments, pairs));
      inputs.push_back(view(batch.rows, count));
      inputs.push_back(view({&number, 1}, one));
    } else {
      inputs.push_back(view({&number, 1}, one));
      inputs.push_back(view(batch.rows, count));
      inputs.insert(inputs.end(), caches_.begin(), caches_.end());
    }
    output_ = container_->run(inputs);
    if (output_.dtype != ScalarType::Float || !output_.is_contiguous() ||
        output_.numel() != std::ssize(batch.rows) * metadata().vocab_size) {
      throw Error(artifact_.path +
                  " does not return the logits that its metadata promises; export the model again");
    }
    return {reinterpret_cast<const float*>(output_.data), static_cast<size_t>(output_.numel())};
  }

 private:
  static AotiArtifact open_artifact(const std::string& path) {
    const aoti_host::LinkedModel* own = aoti_host::linked_model();
    return own ? read_aoti_package(path, own->artifact) : open_aoti_artifact(path);
  }

  // A tensor over the caller's memory, which the model only reads.
  static Tensor view(std::span<const int64_t> values, std::span<const int64_t> shape) {
    return dense(const_cast<int64_t*>(values.data()), ScalarType::Long, shape);
  }

  // What the code calls must be here; asked for by name before it is loaded.
  void check_functions() const {
    const std::string& path = artifact_.path;
    std::string names;
    for (const std::string& name : aoti_host::missing_functions(metadata().host_functions)) {
      names += (names.empty() ? "" : ", ") + name;
    }
    if (!metadata().lean && !names.empty()) {
      throw Error(path + " needs PyTorch's libraries for " + names +
                  "; use an aoti_run built on libtorch (docs/aoti.md), or export the model with "
                  "--delegate lowbit");
    }
    if (!metadata().lean) {
      throw Error(path +
                  " was exported with --runtime torch; use an aoti_run built on libtorch "
                  "(docs/aoti.md), or export the model with --runtime lean");
    }
    if (metadata().host_interface != aoti_host::interface_version()) {
      throw Error(path + " was made for the interface " + metadata().host_interface +
                  ", this runner has " + aoti_host::interface_version() +
                  "; export the model again or use the runner of that release");
    }
    if (!names.empty()) {
      throw Error(path + " calls what this runner does not have: " + names +
                  "; use a newer runner, or export the model again");
    }
  }

  // `target` is null where the code is linked in.
  void load(const Target* target) {
    if (target == nullptr) {
      make_container(Library::linked(artifact_.path), artifact_.weights);
      return;
    }
    if (artifact_.file) {
      make_container(Library::from_bytes(artifact_.path, package_code(artifact_, *target)),
                     artifact_.weights);
      return;
    }
    // A name without a slash would be looked for in the system's folders.
    const std::string& path = artifact_.path;
    Library library = Library::open(path.find('/') == std::string::npos ? "./" + path : path);
    const auto* start = library.symbol<const std::byte>(kWeightsStart);
    const auto* end = library.symbol<const std::byte>(kWeightsEnd);
    make_container(std::move(library), {start, end});
  }

  void make_container(Library library, std::span<const std::byte> blob) {
    std::vector<NamedTensor> weights;
    for (const Weight& weight : metadata().weights) {
      // The model only reads it: the mapping is read-only.
      auto* data = const_cast<std::byte*>(place_of(artifact_.path, weight, blob).data());
      weights.push_back({weight.name, dense(data, scalar_type(weight.dtype), weight.shape)});
    }
    const auto inputs = static_cast<size_t>(metadata().lowbit ? 4 : 3 + metadata().n_caches);
    container_.emplace(artifact_.path, std::move(library), weights, inputs);
  }

  AotiArtifact artifact_;
  std::string target_;
  std::optional<Container> container_;
  int threads_ = 0;
  // Of a program on stock operators: k_0, v_0, k_1, v_1, ...
  std::vector<lowbit::ZeroMemory> cache_memory_;
  std::vector<Tensor> caches_;
  Tensor output_;  // of the last run
};

}  // namespace

std::string_view backend_name() { return kAotiBackend; }

std::unique_ptr<Model> load_model(const std::string& path, const LoadOptions& options) {
  return std::make_unique<AotiModel>(path, options);
}

}  // namespace runner
