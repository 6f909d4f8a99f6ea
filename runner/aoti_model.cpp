// Models of AOTInductor (.pt2 packages and bare .so libraries), through libtorch.

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/inductor/aoti_runner/model_container_runner_cpu.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/bindings/aoti.h"
#include "kernels/lowbit.h"
#include "runner/artifact_file.h"
#include "runner/base64.h"
#include "runner/cpu_count.h"
#include "runner/cpu_features.h"
#include "runner/error.h"
#include "runner/model.h"
#include "runner/shared_pool.h"
#include "runner/zero_memory.h"

namespace runner {
namespace {

namespace fs = std::filesystem;
using caffe2::serialize::PyTorchStreamReader;

constexpr std::string_view kLibraryFolder = "data/aotinductor/model/";

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

StringMap parse_string_map(const std::string& path, std::string_view text) {
  const auto object = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) throw Error(path + " holds damaged metadata; export the model again");
  StringMap map;
  for (const auto& [key, value] : object.items()) {
    if (value.is_string()) map[key] = value.get<std::string>();
  }
  return map;
}

// A .pt2: a zip archive with the library and its metadata.
class Package {
 public:
  explicit Package(const std::string& path) : path_(path), reader_(path) {
    for (const std::string& name : reader_.getAllRecords()) {
      if (name.starts_with(kLibraryFolder) && name.ends_with(".so")) library_ = name;
    }
    if (library_.empty()) {
      throw Error(path +
                  " is an archive without a compiled model; give a file exported with "
                  "--output-aoti-package");
    }
  }

  StringMap metadata() {
    const std::string name = library_.substr(0, library_.size() - 3) + "_metadata.json";
    if (!reader_.hasRecord(name)) throw Error(path_ + " has no metadata; export the model again");
    auto [data, size] = reader_.getRecord(name);
    return parse_string_map(path_, {static_cast<const char*>(data.get()), size});
  }

  // Writes the library, and the files that belong to it, into `folder`.
  // Returns the library's path.
  fs::path unpack(const fs::path& folder) {
    for (const std::string& name : reader_.getAllRecords()) {
      const fs::path file = fs::path(name).filename();
      if (!name.starts_with(kLibraryFolder) || file.extension() == ".cpp") continue;
      copy(name, folder / file);
    }
    return folder / fs::path(library_).filename();
  }

 private:
  void copy(const std::string& name, const fs::path& to) {
    constexpr size_t kPiece = size_t{4} << 20;
    std::vector<char> piece(kPiece);
    const size_t size = reader_.getRecordSize(name);
    auto pieces = reader_.createChunkReaderIter(name, size, kPiece);
    std::ofstream file(to, std::ios::binary);
    for (size_t done = 0; file && done < size;) {
      const size_t n = pieces.next(piece.data());
      if (n == 0) throw Error(path_ + " is damaged; copy or export it again");
      file.write(piece.data(), static_cast<std::streamsize>(n));
      done += n;
    }
    file.close();
    if (!file) {
      throw Error("no room to unpack " + path_ + " in " + to.parent_path().string() +
                  "; set TMPDIR to a folder with room");
    }
  }

  std::string path_;
  PyTorchStreamReader reader_;
  std::string library_;
};

StringMap read_sidecar(const std::string& library) {
  const std::string path = library + ".json";
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error("cannot read " + path + ", which belongs beside " + library +
                "; copy both, or export again with --output-dso");
  }
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return parse_string_map(path, text);
}

void check_cpu(const Metadata& metadata, const std::string& path) {
  const auto available = cpu_features();
  if (!available) return;
  std::string names;
  for (const std::string& name : missing_features(metadata.cpu_features, *available)) {
    names += " " + name;
  }
  if (names.empty()) return;
  throw Error(path + " was made for " + metadata.target +
              " and needs of the CPU what this one "
              "lacks:" +
              names + "; export it with a lower --target, such as x86-64-v3");
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
  AotiModel(const std::string& path, const LoadOptions& options) : path_(path) {
    const FileInfo info = inspect_artifact(path);
    if (info.kind == FileKind::executorch) {
      throw Error(path + " is a .pte (ExecuTorch program); run it with et_run");
    }
    if (info.kind != FileKind::zip && info.kind != FileKind::elf) {
      throw Error(path +
                  " is neither a .pt2 nor a .so; give a file exported with "
                  "--output-aoti-package or --output-dso");
    }
    std::optional<Package> package;
    if (info.kind == FileKind::zip) {
      package.emplace(path);
    } else {
      check_elf_header(path, info);
    }
    read_metadata(package ? package->metadata() : read_sidecar(path));
    check_cpu(metadata_, path);
    if (options.metadata_only) return;
    threads_ = thread_count(options.threads);
    if (metadata_.lowbit) {
      shared_pool(threads_);
      lowbit::isa_name();  // a LOWBIT_ISA that is not to be had fails here
    } else {
      at::set_num_threads(threads_);
    }
    if (package) {
      // The loaded library stays mapped when its file is removed.
      const TemporaryFolder folder;
      load_library(package->unpack(folder.path()));
    } else {
      load_library(fs::absolute(path));
    }
    const c10::InferenceMode guard;
    for (int64_t i = 0; i < metadata_.n_caches; ++i) {
      const auto& shape = i % 2 == 0 ? metadata_.key_cache_shape : metadata_.value_cache_shape;
      const at::ScalarType type = scalar_type(metadata_.cache_dtype);
      size_t bytes = c10::elementSize(type);
      for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
      cache_memory_.emplace_back(bytes);
      caches_.push_back(at::from_blob(cache_memory_.back().bytes().data(), shape, type));
    }
  }

  const Metadata& metadata() const override { return metadata_; }
  std::string_view tokenizer_table() const override { return tokenizer_table_; }
  int threads() const override { return threads_; }
  std::string isa() const override {
    return metadata_.lowbit ? lowbit::isa_name() : metadata_.target;
  }

  void forward(std::span<const int64_t> tokens, int64_t start_pos, std::span<const int64_t> rows,
               std::span<float> logits) override try {
    const c10::InferenceMode guard;
    std::vector<at::Tensor> inputs = {view(tokens).unsqueeze(0), view({&start_pos, 1}), view(rows)};
    inputs.insert(inputs.end(), caches_.begin(), caches_.end());
    const std::vector<at::Tensor> outputs = library_->run(inputs);
    const bool expected = !outputs.empty() && outputs[0].scalar_type() == at::kFloat &&
                          static_cast<size_t>(outputs[0].numel()) == logits.size();
    if (!expected) {
      throw Error(path_ +
                  " does not return the logits that its metadata promises; export the "
                  "model again");
    }
    const at::Tensor output = outputs[0].contiguous();
    std::memcpy(logits.data(), output.const_data_ptr<float>(), logits.size_bytes());
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    if (!lowbit::last_error().empty()) {
      throw Error(path_ + " failed while running: " + lowbit::last_error() +
                  "; export the model again");
    }
    fail(path_ + " failed while running", error);
  }

 private:
  // A tensor over the caller's memory, which the model only reads.
  static at::Tensor view(std::span<const int64_t> values) {
    return at::from_blob(const_cast<int64_t*>(values.data()), {std::ssize(values)}, at::kLong);
  }

  void read_metadata(const StringMap& map) {
    metadata_ = parse_metadata(map, path_, kAotiBackend);
    const auto found = map.find(keys::kTokenizer);
    if (found == map.end()) throw Error(path_ + " has no tokenizer; export the model again");
    tokenizer_table_ = decode_base64(found->second);
    if (std::ssize(tokenizer_table_) != metadata_.tokenizer_size) {
      throw Error(path_ + " has a damaged tokenizer; export the model again");
    }
  }

  void load_library(const fs::path& file) {
    library_ = std::make_unique<torch::inductor::AOTIModelContainerRunnerCpu>(file.string());
  }

  std::string path_;
  Metadata metadata_;
  std::string tokenizer_table_;
  std::unique_ptr<torch::inductor::AOTIModelContainerRunnerCpu> library_;
  int threads_ = 0;
  std::vector<ZeroMemory> cache_memory_;
  std::vector<at::Tensor> caches_;  // k_0, v_0, k_1, v_1, ...
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
