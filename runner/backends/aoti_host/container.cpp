#include "backends/aoti_host/container.h"

#include <torch/headeronly/version.h>

#include <algorithm>
#include <new>
#include <utility>

#include "kernels/bindings/aoti.h"
#include "kernels/bindings/interface.h"
#include "model/artifact_file.h"
#include "system/error.h"

namespace runner::aoti_host {

std::string interface_version() {
  return std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR) + "/" +
         std::to_string(lowbit::kInterfaceVersion);
}

// The name of an entry point and its function, of the type that PyTorch's header declares.
#define ENTRY(name) #name, library_.symbol<decltype(name)>(#name)

template <class Function, class... Arguments>
void Container::call(const char* name, Function* function, Arguments... arguments) {
  lowbit::clear_last_error();
  set_last_error({});
  std::string thrown;  // what the generated code checks outside its own handlers
  try {
    if (function(arguments...) == AOTI_RUNTIME_SUCCESS) return;
  } catch (const std::exception& error) {
    thrown = error.what();
  }
  const char* said = nullptr;
  last_error_(&said);
  // The innermost words say most.
  for (const std::string& text : {lowbit::last_error(), last_error(), thrown,
                                  std::string(said ? said : ""), std::string("no reason given")}) {
    if (text.empty()) continue;
    if (text == lowbit::kOutOfMemory) throw std::bad_alloc();
    throw Error(with_remedy(path_ + " fails in " + name + ": " + first_line(text)));
  }
}

Container::Container(std::string path, Library library, std::span<const NamedTensor> weights,
                     size_t inputs)
    : path_(std::move(path)),
      library_(std::move(library)),
      run_(library_.symbol<decltype(AOTInductorModelContainerRunSingleThreaded)>(
          "AOTInductorModelContainerRunSingleThreaded")),
      delete_(library_.symbol<decltype(AOTInductorModelContainerDelete)>(
          "AOTInductorModelContainerDelete")),
      last_error_(library_.symbol<decltype(AOTInductorGetLastError)>("AOTInductorGetLastError")) {
  call(ENTRY(AOTInductorModelContainerCreateWithDevice), &container_, size_t{1}, "cpu", nullptr);
  try {
    set_weights(weights);
    size_t outputs = 0, taken = 0;
    call(ENTRY(AOTInductorModelContainerGetNumInputs), container_, &taken);
    call(ENTRY(AOTInductorModelContainerGetNumOutputs), container_, &outputs);
    if (taken != inputs || outputs != 1) {
      throw Error(path_ + " takes " + std::to_string(taken) + " inputs and gives " +
                  std::to_string(outputs) + " outputs where its metadata promises " +
                  std::to_string(inputs) + " and 1; export the model again");
    }
  } catch (...) {
    delete_(container_);
    throw;
  }
}

Container::~Container() { delete_(container_); }

void Container::set_weights(std::span<const NamedTensor> weights) {
  const KeptHandles::Recording recording(handles_);
  size_t count = 0;
  call(ENTRY(AOTInductorModelContainerGetNumConstants), container_, &count);
  std::vector<AOTInductorConstantMapEntry> entries;
  for (size_t i = 0; i < count; ++i) {
    const char *name = nullptr, *program_name = nullptr;
    int32_t dtype = 0;
    size_t bytes = 0;
    call(ENTRY(AOTInductorModelContainerGetConstantName), container_, i, &name);
    call(ENTRY(AOTInductorModelContainerGetConstantOriginalFQN), container_, i, &program_name);
    call(ENTRY(AOTInductorModelContainerGetConstantDtype), container_, i, &dtype);
    call(ENTRY(AOTInductorModelContainerGetConstantDataSize), container_, i, &bytes);
    const auto found = std::find_if(weights.begin(), weights.end(), [&](const NamedTensor& weight) {
      return weight.name == program_name;
    });
    // The container rounds sizes up to the alignment of weights.
    const auto rounded = [](size_t size) {
      return (size + kWeightAlignment - 1) / kWeightAlignment * kWeightAlignment;
    };
    if (found == weights.end() || static_cast<int32_t>(found->tensor.dtype) != dtype ||
        rounded(found->tensor.storage.bytes()) != bytes) {
      throw Error(path_ + " asks for the weight " + program_name +
                  ", which is not there or of another form; export the model again");
    }
    entries.push_back({name, new_handle(found->tensor)});
  }
  call(ENTRY(AOTInductorModelContainerUpdateUserManagedConstantBufferPairs), container_,
       entries.data(), entries.size(), /*use_inactive=*/false, /*validate_full_update=*/true);
}

Tensor Container::run(std::span<const Tensor> inputs) {
  std::vector<AtenTensorHandle> handles;  // the model takes them over
  handles.reserve(inputs.size());
  for (const Tensor& input : inputs) handles.push_back(new_handle(input));
  AtenTensorHandle output = nullptr;
  call("AOTInductorModelContainerRunSingleThreaded", run_, container_, handles.data(),
       handles.size(), &output, size_t{1}, nullptr, nullptr);
  const Tensor result = tensor_of(output);
  aoti_torch_delete_tensor_object(output);
  return result;
}

}  // namespace runner::aoti_host
