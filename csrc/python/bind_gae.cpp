#include <cstdint>
#include <string>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "ops/gae.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {
namespace {

// Tensors come as addresses (Tensor.data_ptr()), so that the extension needs nothing of torch.
using Address = std::uintptr_t;

void* pointer(Address address) {
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

void bind_gae(py::module_& module) {
  module.def(
      "gae",
      [](Address rewards, Address values, const std::string& dtype, Address dones, bool dones_are_bytes,
         Address bootstrap, Address mask, Address ratio, std::int64_t outer, std::int64_t steps, std::int64_t inner,
         double gamma, double lam, double rho_clip, double c_clip, Address advantages, Address returns, int threads,
         const std::string& isa) {
        const GaeCall call = {.rewards = pointer(rewards),
                              .values = pointer(values),
                              .dtype = dtype_from_name(dtype),
                              .dones = pointer(dones),
                              .dones_are_bytes = dones_are_bytes,
                              .bootstrap = pointer(bootstrap),
                              .mask = static_cast<const std::uint8_t*>(pointer(mask)),
                              .ratio = pointer(ratio),
                              .outer = outer,
                              .steps = steps,
                              .inner = inner,
                              .gamma = gamma,
                              .lam = lam,
                              .rho_clip = rho_clip,
                              .c_clip = c_clip,
                              .threads = threads,
                              .isa = isa.empty() ? best_isa() : isa_from_name(isa)};
        const py::gil_scoped_release release;
        gae(call, {.advantages = pointer(advantages), .returns = pointer(returns)});
      },
      py::arg("rewards"), py::arg("values"), py::arg("dtype"), py::arg("dones"), py::arg("dones_are_bytes"),
      py::arg("bootstrap"), py::arg("mask"), py::arg("ratio"), py::arg("outer"), py::arg("steps"), py::arg("inner"),
      py::arg("gamma"), py::arg("lam"), py::arg("rho_clip"), py::arg("c_clip"), py::arg("advantages"),
      py::arg("returns"), py::arg("threads"), py::arg("isa") = "",
      "Fill advantages and returns [outer, steps, inner]; all tensors contiguous, by address.");
}

}  // namespace fluxcore::python
