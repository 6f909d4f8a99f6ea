// Models of AOTInductor (.pt2 packages and bare .so libraries), through libtorch: for those whose
// code calls PyTorch's own operators.

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/inductor/aoti_runner/model_container_runner_cpu.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "backends/aoti_artifact.h"
#include "kernels/bindings/aoti.h"
#include "kernels/lowbit.h"
#include "model/artifact_file.h"
#include "model/model.h"
#include "system/cpu_count.h"
#include "system/error.h"
#include "system/shared_pool.h"
#include "kernels/state/zero_memory.h"

namespace runner {
namespace {

namespace fs = std::filesystem;

// A folder for a package's library, gone with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::error_code error;
    fs::path base = fs::temp_directory_path(error);
    if (error) base = "/tmp";
    std::string pattern = (base / "aoti_run-XXXXXX").string();
    if (!mkdtemp(pattern.data())) {
      throw Error("cannot make a folder in " + base.string() + ": " + std::strerror(errno) +
                  "; set TMPDIR to a folder that can be written");
    }
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

bool is_blob(const fs::path& file) { return file.extension() == ".blob"; }

// Writes the parts of a package that PyTorch's loader reads into `folder`: the code for `target` and
// the files beside it. Returns the library's path.
fs::path unpack(const AotiArtifact& artifact, const Target& target, const fs::path& folder) {
  package_code(artifact, target);  // it is there, and whole
  const std::string inside = "data/aotinductor/" + target.folder + "/";
  const std::string weights = "data/aotinductor/model/";
  for (const ZipMember& member : artifact.members) {
    const std::string_view name = member.name.substr(member.name.find('/') + 1);
    const fs::path file = fs::path(name).filename();
    const bool wanted = name.starts_with(inside) || (name.starts_with(weights) && is_blob(file));
    if (!wanted) continue;
    check_zip_crc(artifact.path, member);
    std::ofstream out(folder / file, std::ios::binary);
    out.write(reinterpret_cast<const char*>(member.data.data()),
              static_cast<std::streamsize>(member.data.size()));
    out.close();
    if (!out) {
      throw Error("no room to unpack " + artifact.path + " in " + folder.string() +
                  "; set TMPDIR to a folder with room");
    }
  }
  return folder / "model.so";
}

at::ScalarType scalar_type(const std::string& name) {
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  if (name == "int8") return at::kChar;
  return at::kFloat;
}

// Reports what libtorch threw in one line. Its exceptions carry a backtrace on lines of its own,
// and its allocator has no exception type: only its words tell that memory ran out.
[[noreturn]] void fail(const std::string& what, const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  const std::string reason =
      first_line(torch_error ? torch_error->what_without_backtrace() : error.what());
  const bool no_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
                         reason.find("not enough memory") != std::string::npos;
  if (no_memory) throw std::bad_alloc();
  throw Error(what + ": " + reason + "; copy or export it again");
}

class AotiModel final : public Model {
 public:
  AotiModel(const std::string& path, const LoadOptions& options)
      : path_(path), artifact_(open_aoti_artifact(path)) {
    if (options.metadata_only) return;
    const Target& target = best_target(artifact_);
    target_ = target.name;
    threads_ = thread_count(options.threads);
    if (metadata().lowbit) {
      shared_pool(threads_);
      lowbit::isa_name();  // a LOWBIT_ISA that is not to be had fails here
    } else {
      at::set_num_threads(threads_);
    }
    load(target);
    const c10::InferenceMode guard;
    for (int64_t i = 0; i < metadata().n_caches; ++i) {
      const auto& shape = i % 2 == 0 ? metadata().key_cache_shape : metadata().value_cache_shape;
      const at::ScalarType type = scalar_type(metadata().cache_dtype);
      size_t bytes = c10::elementSize(type);
      for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
      cache_memory_.emplace_back(bytes);
      caches_.push_back(at::from_blob(cache_memory_.back().bytes().data(), shape, type));
    }
  }

  const Metadata& metadata() const override { return artifact_.metadata; }
  std::string_view tokenizer_table() const override { return artifact_.tokenizer; }
  int threads() const override { return threads_; }
  std::string isa() const override { return metadata().lowbit ? lowbit::isa_name() : target_; }

 protected:
  lowbit::Library library() const override { return lowbit::Library::aoti; }

  std::span<const float> run_graph(const Batch& batch, const OwnedState& state,
                                   std::vector<float>&) override try {
    const c10::InferenceMode guard;
    const int64_t number = metadata().lowbit ? state.handle() : state->position(batch.segments[0]);
    std::vector<at::Tensor> inputs = {view(batch.tokens).unsqueeze(0)};
    if (metadata().lowbit) {
      inputs.push_back(view(batch.segments).view({-1, 2}));
      inputs.push_back(view(batch.rows));
      inputs.push_back(view({&number, 1}));
    } else {
      inputs.push_back(view({&number, 1}));
      inputs.push_back(view(batch.rows));
      inputs.insert(inputs.end(), caches_.begin(), caches_.end());
    }
    lowbit::clear_last_error();
    const std::vector<at::Tensor> outputs = library_->run(inputs);
    const bool expected = !outputs.empty() && outputs[0].scalar_type() == at::kFloat &&
                          outputs[0].numel() == std::ssize(batch.rows) * metadata().vocab_size;
    if (!expected) {
      throw Error(path_ +
                  " does not return the logits that its metadata promises; export the "
                  "model again");
    }
    output_ = outputs[0].contiguous();
    return {output_.const_data_ptr<float>(), static_cast<size_t>(output_.numel())};
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    if (!lowbit::last_error().empty()) {
      throw Error(with_remedy(path_ + " failed while running: " + lowbit::last_error()));
    }
    fail(path_ + " failed while running", error);
  }

 private:
  // A tensor over the caller's memory, which the model only reads.
  static at::Tensor view(std::span<const int64_t> values) {
    return at::from_blob(const_cast<int64_t*>(values.data()), {std::ssize(values)}, at::kLong);
  }

  void load(const Target& target) {
    using torch::inductor::AOTIModelContainerRunnerCpu;
    if (artifact_.file) {
      // The loaded library stays mapped when its file is removed.
      const TemporaryFolder folder;
      const fs::path library = unpack(artifact_, target, folder.path());
      library_ = std::make_unique<AOTIModelContainerRunnerCpu>(library.string());
      if (!metadata().weights.empty()) {
        library_->update_constant_buffer_from_blob(folder.path() / "model_weights.blob");
      }
    } else if (metadata().weights.empty()) {
      library_ = std::make_unique<AOTIModelContainerRunnerCpu>(fs::absolute(path_).string());
    } else {
      throw Error(path_ +
                  " was made for the lean runtime; run it with aoti_run built without "
                  "-DAOTI_HOST=torch, or give the .pt2");
    }
  }

  std::string path_;
  AotiArtifact artifact_;
  std::string target_;
  std::unique_ptr<torch::inductor::AOTIModelContainerRunnerCpu> library_;
  int threads_ = 0;
  // Of a program on stock operators: k_0, v_0, k_1, v_1, ...
  std::vector<lowbit::ZeroMemory> cache_memory_;
  std::vector<at::Tensor> caches_;
  at::Tensor output_;  // of the last run
};

}  // namespace

std::string_view backend_name() { return kAotiBackend; }

std::unique_ptr<Model> load_model(const std::string& path, const LoadOptions& options) try {
  return std::make_unique<AotiModel>(path, options);
} catch (const Error&) {
  throw;
} catch (const std::exception& error) {
  fail(path + " cannot be loaded", error);
}

}  // namespace runner
