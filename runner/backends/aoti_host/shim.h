#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <memory>
#include <string>
#include <vector>

#include "backends/aoti_host/tensor.h"
#include "kernels/bindings/aoti.h"

namespace runner::aoti_host {

// A handle of the C interface is a Tensor of ours; whoever gets an owning one deletes it with
// aoti_torch_delete_tensor_object.
inline Tensor& tensor_of(AtenTensorHandle handle) { return *reinterpret_cast<Tensor*>(handle); }
AtenTensorHandle new_handle(Tensor tensor);

// Owns the handles that are made on this thread while a Recording lasts, whether or not they are
// deleted: PyTorch 2.13's containers never delete those of weights that their user manages.
class KeptHandles {
 public:
  class Recording {
   public:
    explicit Recording(KeptHandles& owner);
    ~Recording();
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;
  };

  void add(Tensor* tensor) { tensors_.emplace_back(tensor); }

 private:
  std::vector<std::unique_ptr<Tensor>> tensors_;
};

// What the last function of the interface that failed on this thread said.
const std::string& last_error();
void set_last_error(std::string text);

// Runs the body of a function of the interface: exceptions become its status.
template <class F>
AOTITorchError guarded(F body) noexcept {
  try {
    body();
    return AOTI_TORCH_SUCCESS;
  } catch (const std::bad_alloc&) {
    set_last_error(lowbit::kOutOfMemory);
  } catch (const std::exception& error) {
    set_last_error(error.what());
  }
  return AOTI_TORCH_FAILURE;
}

}  // namespace runner::aoti_host
