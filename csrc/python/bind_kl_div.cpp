#include <cstdint>
#include <string>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "ops/kl_div.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {
namespace {

// Tensors come as addresses (Tensor.data_ptr()), so that the extension needs nothing of torch.
using Address = std::uintptr_t;

void* pointer(Address address) {
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

KlDivCall make_call(Address x, Address ref, const std::string& dtype, std::int64_t rows, std::int64_t classes,
                    std::int64_t row_stride, std::int64_t ref_stride, Address token_weight,
                    const std::string& direction, double beta, const std::string& reduction, double temperature,
                    int threads, const std::string& isa) {
  return {.x = pointer(x),
          .ref = pointer(ref),
          .dtype = dtype_from_name(dtype),
          .rows = rows,
          .classes = classes,
          .row_stride = row_stride,
          .ref_stride = ref_stride,
          .token_weight = pointer(token_weight),
          .direction = direction_from_name(direction),
          .beta = beta,
          .reduction = reduction_from_name(reduction),
          .temperature = temperature,
          .threads = threads,
          .isa = isa.empty() ? best_isa() : isa_from_name(isa)};
}

}  // namespace

void bind_kl_div(py::module_& module) {
  module.def(
      "kl_div_fwd",
      [](Address x, Address ref, const std::string& dtype, std::int64_t rows, std::int64_t classes,
         std::int64_t row_stride, std::int64_t ref_stride, Address token_weight, const std::string& direction,
         double beta, const std::string& reduction, double temperature, Address loss, Address state, Address totals,
         int threads, const std::string& isa) {
        const KlDivCall call = make_call(x, ref, dtype, rows, classes, row_stride, ref_stride, token_weight, direction,
                                         beta, reduction, temperature, threads, isa);
        const py::gil_scoped_release release;
        kl_div_fwd(call, {.loss = pointer(loss), .state = pointer(state), .totals = pointer(totals)});
      },
      py::arg("x"), py::arg("ref"), py::arg("dtype"), py::arg("rows"), py::arg("classes"), py::arg("row_stride"),
      py::arg("ref_stride"), py::arg("token_weight"), py::arg("direction"), py::arg("beta"), py::arg("reduction"),
      py::arg("temperature"), py::arg("loss"), py::arg("state"), py::arg("totals"), py::arg("threads"),
      py::arg("isa") = "", "Fill loss, state and totals from two sets of rows of logits; all tensors by address.");
  module.def(
      "kl_div_bwd",
      [](Address upstream, std::int64_t upstream_stride, Address x, Address ref, const std::string& dtype,
         std::int64_t rows, std::int64_t classes, std::int64_t row_stride, std::int64_t ref_stride,
         Address token_weight, Address state, Address totals, const std::string& direction, double beta,
         const std::string& reduction, double temperature, Address gradient, int threads, const std::string& isa) {
        const KlDivCall call = make_call(x, ref, dtype, rows, classes, row_stride, ref_stride, token_weight, direction,
                                         beta, reduction, temperature, threads, isa);
        const py::gil_scoped_release release;
        kl_div_bwd(call, {.upstream = pointer(upstream),
                          .upstream_stride = upstream_stride,
                          .state = pointer(state),
                          .totals = pointer(totals),
                          .gradient = pointer(gradient)});
      },
      py::arg("upstream"), py::arg("upstream_stride"), py::arg("x"), py::arg("ref"), py::arg("dtype"), py::arg("rows"),
      py::arg("classes"), py::arg("row_stride"), py::arg("ref_stride"), py::arg("token_weight"), py::arg("state"),
      py::arg("totals"), py::arg("direction"), py::arg("beta"), py::arg("reduction"), py::arg("temperature"),
      py::arg("gradient"), py::arg("threads"), py::arg("isa") = "",
      "Fill gradient with that of sum(upstream * loss) by the logits; all tensors by address.");
}

}  // namespace fluxcore::python
