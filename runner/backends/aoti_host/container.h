#pragma once

#include <torch/csrc/inductor/aoti_runtime/interface.h>

#include <span>
#include <string>
#include <vector>

#include "backends/aoti_host/library.h"
#include "backends/aoti_host/shim.h"
#include "backends/aoti_host/tensor.h"

namespace runner::aoti_host {

// A weight where it lies, under its name in the exported program.
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

// Of what a model and its host call of each other: PyTorch's release, whose headers both were compiled
// against, and the version of our operators' C functions. An artifact names the one it was made for.
std::string interface_version();

inline constexpr size_t kWeightAlignment = 64;  // AOTI_CONST_ALIGNMENT of aoti_runtime/model_base.h

// A compiled model: AOTInductor's container of one instance, behind its entry points
// (torch/csrc/inductor/aoti_runtime/interface.h, PyTorch 2.13).
class Container {
 public:
  // `path` is for messages. Throws Error when the model cannot be made, takes another number of
  // inputs, or asks for a weight that `weights` lacks or has in another type or size. The tensors'
  // memory must outlive the container.
  Container(std::string path, Library library, std::span<const NamedTensor> weights,
            size_t inputs);
  ~Container();
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;

  // Runs the model; it may write to the memory of `inputs`. Throws Error when it fails and
  // std::bad_alloc when memory runs out.
  Tensor run(std::span<const Tensor> inputs);

 private:
  void set_weights(std::span<const NamedTensor> weights);
  template <class Function, class... Arguments>
  void call(const char* name, Function* function, Arguments... arguments);

  std::string path_;
  Library library_;
  AOTInductorModelContainerHandle container_ = nullptr;
  decltype(AOTInductorModelContainerRunSingleThreaded)* run_;
  decltype(AOTInductorModelContainerDelete)* delete_;
  decltype(AOTInductorGetLastError)* last_error_;
  KeptHandles handles_;  // of the weights
};

}  // namespace runner::aoti_host
