#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "ops/softmax_call.hpp"
#include "ops/softmax_stats.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {
namespace {

// Tensors come as addresses (Tensor.data_ptr()), so that the extension needs nothing of torch.
template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr)
}

SoftmaxStatsCall make_call(std::uintptr_t x, const std::string& dtype, std::int64_t rows, std::int64_t classes,
                           std::int64_t row_stride, std::uintptr_t target, unsigned outputs, int top_k,
                           double temperature, double softcap, int threads, const std::string& isa) {
  return {.x = pointer<void>(x),
          .dtype = dtype_from_name(dtype),
          .rows = rows,
          .classes = classes,
          .row_stride = row_stride,
          .target = pointer<std::int64_t>(target),
          .outputs = outputs,
          .top_k = top_k,
          .transform = {.temperature = temperature, .softcap = softcap},
          .threads = threads,
          .isa = isa.empty() ? best_isa() : isa_from_name(isa)};
}

}  // namespace

void bind_softmax_stats(py::module_& module) {
  module.def(
      "softmax_row_grain",
      [](std::int64_t rows, std::int64_t classes, int threads) {
        if (classes < 1 || threads < 1) throw std::invalid_argument("`classes` and `threads` must be >= 1");
        return softmax_row_grain({.rows = rows, .classes = classes, .threads = threads});
      },
      py::arg("rows"), py::arg("classes"), py::arg("threads"), "Rows of logits that one thread takes at a time.");
  module.def(
      "softmax_stats_fwd",
      [](std::uintptr_t x, const std::string& dtype, std::int64_t rows, std::int64_t classes, std::int64_t row_stride,
         std::uintptr_t target, unsigned outputs, int top_k, double temperature, double softcap, std::uintptr_t stats,
         std::uintptr_t argmax, std::uintptr_t state, std::uintptr_t top_index, int threads, const std::string& isa) {
        const SoftmaxStatsCall call =
            make_call(x, dtype, rows, classes, row_stride, target, outputs, top_k, temperature, softcap, threads, isa);
        const py::gil_scoped_release release;
        softmax_stats_fwd(call, {.stats = pointer<void>(stats),
                                 .argmax = pointer<std::int64_t>(argmax),
                                 .state = pointer<void>(state),
                                 .top_index = pointer<std::int32_t>(top_index)});
      },
      py::arg("x"), py::arg("dtype"), py::arg("rows"), py::arg("classes"), py::arg("row_stride"), py::arg("target"),
      py::arg("outputs"), py::arg("top_k"), py::arg("temperature"), py::arg("softcap"), py::arg("stats"),
      py::arg("argmax"), py::arg("state"), py::arg("top_index"), py::arg("threads"), py::arg("isa") = "",
      "Fill stats, argmax, state and top_index from rows of logits; all tensors by address.");
  module.def(
      "softmax_stats_bwd",
      [](std::uintptr_t x, const std::string& dtype, std::int64_t rows, std::int64_t classes, std::int64_t row_stride,
         std::uintptr_t target, unsigned outputs, int top_k, double temperature, double softcap, std::uintptr_t grads,
         std::uintptr_t argmax, std::uintptr_t state, std::uintptr_t top_index, std::uintptr_t dx, int threads,
         const std::string& isa) {
        const SoftmaxStatsCall call =
            make_call(x, dtype, rows, classes, row_stride, target, outputs, top_k, temperature, softcap, threads, isa);
        const py::gil_scoped_release release;
        softmax_stats_bwd(call, {.grads = pointer<void>(grads),
                                 .argmax = pointer<std::int64_t>(argmax),
                                 .state = pointer<void>(state),
                                 .top_index = pointer<std::int32_t>(top_index),
                                 .dx = pointer<void>(dx)});
      },
      py::arg("x"), py::arg("dtype"), py::arg("rows"), py::arg("classes"), py::arg("row_stride"), py::arg("target"),
      py::arg("outputs"), py::arg("top_k"), py::arg("temperature"), py::arg("softcap"), py::arg("grads"),
      py::arg("argmax"), py::arg("state"), py::arg("top_index"), py::arg("dx"), py::arg("threads"), py::arg("isa") = "",
      "Fill dx with the gradient of sum(grads * stats) by the logits; all tensors by address.");
}

}  // namespace fluxcore::python
