// Models of ExecuTorch (.pte), through the SDK in its wheel. The file is memory-mapped.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>
#include <executorch/extension/tensor/tensor_ptr_maker.h>
#include <executorch/runtime/platform/platform.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>

#include "kernels/lowbit.h"
#include "kernels/state/zero_memory.h"
#include "model/artifact_file.h"
#include "model/model.h"
#include "system/cpu_count.h"
#include "system/error.h"
#include "system/shared_pool.h"

namespace runner {
namespace {

namespace et = executorch::runtime;
using executorch::extension::Module;
using executorch::extension::TensorPtr;

// ExecuTorch reports the cause of a failure only through its log, whose sink is process-wide and
// a plain function: here it keeps the first error message instead of printing.
class Log {
 public:
  static Log& instance() {
    static Log log;
    return log;
  }

  void clear() { message_.clear(); }

  std::string because() const { return message_.empty() ? "" : " (" + first_line(message_) + ")"; }

 private:
  Log() {
    et::register_pal(
        et::PalImpl::create(nullptr, &abort, nullptr, nullptr, &keep, nullptr, nullptr, __FILE__));
  }

  static void keep(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t,
                   const char* message, size_t length) {
    std::string& first = instance().message_;
    if ((level == kError || level == kFatal) && first.empty()) first.assign(message, length);
  }

  // A failed ET_CHECK: a damaged file can reach some of them.
  static void abort() {
    throw Error("the model fails inside ExecuTorch" + instance().because() + "; export it again");
  }

  std::string message_;
};

// ExecuTorch's own kernels and XNNPACK (et_stock.cpp). Opening the library registers them, once in a
// process.
class StockKernels {
 public:
  // Throws Error where the library, or one that it needs, is not found.
  static const StockKernels& open(const std::string& path) {
    static const StockKernels opened(path);
    return opened;
  }

  void use_threads(int threads) const { use_threads_(static_cast<uint32_t>(threads)); }

 private:
  explicit StockKernels(const std::string& path) {
    void* library = dlopen(ET_STOCK_FOLDER ET_STOCK_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      throw Error(path + " runs on ExecuTorch's stock kernels, which are not here (" +
                  first_line(dlerror()) + "); put " ET_STOCK_LIBRARY " and its libraries beside "
                  "this program, or export the model again with --delegate lowbit");
    }
    use_threads_ = reinterpret_cast<void (*)(uint32_t)>(dlsym(library, "et_stock_use_threads"));
    if (use_threads_ == nullptr) throw Error(ET_STOCK_LIBRARY " is of another version; build it again");
  }

  void (*use_threads_)(uint32_t) = nullptr;
};

class EtModel final : public Model {
 public:
  EtModel(const std::string& path, const LoadOptions& options)
      : path_(path), module_(path, Module::LoadMode::Mmap) {
    check_file();
    Log::instance().clear();
    check(module_.load(et::Program::Verification::InternalConsistency), "cannot be loaded");
    read_metadata();
    if (options.metadata_only) return;
    threads_ = thread_count(options.threads);
    use_threads();
    if (metadata_.lowbit) lowbit::isa_name();  // a LOWBIT_ISA that is not to be had fails here
    load_forward();
  }

  const Metadata& metadata() const override { return metadata_; }
  std::string_view tokenizer_table() const override { return tokenizer_table_; }
  int threads() const override { return threads_; }
  // XNNPACK and the stock kernels choose, and do not say.
  std::string isa() const override { return metadata_.lowbit ? lowbit::isa_name() : "stock"; }

 protected:
  lowbit::Library library() const override { return lowbit::Library::executorch; }

  std::span<const float> run_graph(const Batch& batch, const OwnedState& state,
                                   std::vector<float>&) override {
    use_threads();  // another model may have asked for other ones
    Log::instance().clear();
    auto outputs = module_.forward(inputs(batch, state));
    if (outputs.error() == et::Error::MemoryAllocationFailed) throw std::bad_alloc();
    check(outputs.error(), "failed while running");
    const auto& output = outputs->at(0).toTensor();
    if (output.scalar_type() != executorch::aten::ScalarType::Float ||
        output.numel() != std::ssize(batch.rows) * metadata_.vocab_size) {
      fail("does not return the logits that its metadata promises");
    }
    return {output.const_data_ptr<float>(), static_cast<size_t>(output.numel())};
  }

 private:
  using Size = executorch::aten::SizesType;

  static Size size(std::span<const int64_t> values) { return static_cast<Size>(values.size()); }

  // A tensor over the caller's memory, which ExecuTorch only reads.
  static TensorPtr view(std::span<const int64_t> values, std::vector<Size> sizes) {
    return executorch::extension::from_blob(const_cast<int64_t*>(values.data()), std::move(sizes),
                                            executorch::aten::ScalarType::Long);
  }

  // The tensors lie over the caller's memory and number_.
  std::vector<et::EValue> inputs(const Batch& batch, const OwnedState& state) {
    const TensorPtr tokens = view(batch.tokens, {1, size(batch.tokens)});
    const TensorPtr rows = view(batch.rows, {size(batch.rows)});
    if (!metadata_.lowbit) {
      number_ = state->position(batch.segments[0]);
      return kept({tokens, view({&number_, 1}, {1}), rows});
    }
    number_ = state.handle();
    const auto segments = size(batch.segments) / 2;
    return kept({tokens, view(batch.segments, {segments, 2}), rows, view({&number_, 1}, {1})});
  }

  // The tensors as values, which do not own them.
  std::vector<et::EValue> kept(std::vector<TensorPtr> tensors) {
    tensors_ = std::move(tensors);
    std::vector<et::EValue> values;
    for (const TensorPtr& tensor : tensors_) values.emplace_back(*tensor);
    return values;
  }

  void use_threads() const {
    if (metadata_.lowbit) {
      shared_pool(threads_);
    } else {
      StockKernels::open(path_).use_threads(threads_);
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(with_remedy(path_ + " " + what + Log::instance().because()));
  }

  void check(et::Error error, const char* what) const {
    if (error != et::Error::Ok) fail(what);
  }

  void check_file() const {
    const FileInfo info = inspect_artifact(path_);
    if (info.kind == FileKind::zip || info.kind == FileKind::elf) {
      throw Error(path_ +
                  " is not a .pte but an AOTInductor artifact or another library or "
                  "archive; run it with aoti_run");
    }
    if (info.kind != FileKind::executorch) {
      throw Error(path_ +
                  " is not a .pte (ExecuTorch program); give a file exported with "
                  "--output-pte");
    }
    check_executorch_header(path_, info);
  }

  // Each key is a method that returns a constant.
  void read_metadata() {
    const auto names = module_.method_names();
    check(names.error(), "cannot be loaded");
    StringMap map;
    for (const std::string& key : *names) {
      if (!is_metadata(key)) continue;
      const auto value = constant(key.c_str());
      if (!value.isString()) fail("has metadata '" + key + "' that is not a string");
      map[key] = std::string(value.toString());
      module_.unload_method(key);
    }
    metadata_ = parse_metadata(std::move(map), path_, kExecutorchBackend);

    if (!names->contains(keys::kTokenizer)) fail("has no tokenizer");
    const auto value = constant(keys::kTokenizer);
    const bool bytes =
        value.isTensor() && value.toTensor().scalar_type() == executorch::aten::ScalarType::Byte;
    if (!bytes || value.toTensor().numel() != metadata_.tokenizer_size) {
      fail("has a damaged tokenizer");
    }
    const auto& table = value.toTensor();
    tokenizer_table_.assign(reinterpret_cast<const char*>(table.const_data_ptr<uint8_t>()),
                            table.nbytes());
    module_.unload_method(keys::kTokenizer);
  }

  // A key that this runner knows, or another method that does nothing but return a string.
  bool is_metadata(const std::string& method) {
    if (std::ranges::find(kCommonKeys, method) != kCommonKeys.end()) return true;
    const auto meta = module_.method_meta(method);
    if (!meta.ok() || meta->num_inputs() != 0 || meta->num_outputs() != 1) return false;
    const auto tag = meta->output_tag(0);
    return tag.ok() && *tag == et::Tag::String;
  }

  et::EValue constant(const char* name) {
    auto outputs = module_.execute(name);
    check(outputs.error(), "has damaged metadata");
    if (outputs->size() != 1) fail(std::string("has damaged metadata '") + name + "'");
    return outputs->at(0);
  }

  void load_forward() {
    const auto meta = module_.method_meta("forward");
    check(meta.error(), "has no method 'forward'");
    const size_t n_inputs = metadata_.lowbit ? 4 : 3;
    if (meta->num_inputs() != n_inputs || meta->num_outputs() != 1) {
      fail(std::string("has a method 'forward' of another form than (tokens, ") +
           (metadata_.lowbit ? "segments, rows, state" : "start_pos, rows") + ") -> logits");
    }
    std::vector<et::Span<uint8_t>> spans;
    for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
      const auto size = meta->memory_planned_buffer_size(i);
      check(size.error(), "has damaged memory plans");
      planned_.emplace_back(static_cast<size_t>(*size));
      spans.emplace_back(planned_.back().bytes().data(), planned_.back().bytes().size());
    }
    planned_spans_ = std::move(spans);
    allocator_.emplace(
        et::Span<et::Span<uint8_t>>(planned_spans_.data(), planned_spans_.size()));
    check(module_.load_forward(&*allocator_), "cannot be run by this runner");
  }

  std::string path_;
  // Every intermediate result lies here, and the caches of a program on stock operators; they outlive the
  // method.
  std::vector<lowbit::ZeroMemory> planned_;
  std::vector<et::Span<uint8_t>> planned_spans_;
  std::optional<et::HierarchicalAllocator> allocator_;
  Module module_;
  int threads_ = 0;
  Metadata metadata_;
  std::string tokenizer_table_;
  int64_t number_ = 0;  // an input of the forward that runs: a state's handle, or a position
  std::vector<TensorPtr> tensors_;
};

}  // namespace

std::string_view backend_name() { return kExecutorchBackend; }

std::unique_ptr<Model> load_model(const std::string& path, const LoadOptions& options) {
  Log::instance();
  return std::make_unique<EtModel>(path, options);
}

}  // namespace runner
