#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "ops/ortho.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {
namespace {

float* pointer(std::uintptr_t address) {
  return reinterpret_cast<float*>(address);  // NOLINT(performance-no-int-to-ptr)
}

Isa isa_or_best(const std::string& isa) { return isa.empty() ? best_isa() : isa_from_name(isa); }

}  // namespace

void bind_ortho(py::module_& module) {
  // Weight, gradient and number of elements of each tensor.
  using Pair = std::tuple<std::uintptr_t, std::uintptr_t, std::int64_t>;
  module.def(
      "orthogonalize",
      [](const std::vector<Pair>& pairs, int threads, const std::string& isa) {
        std::vector<OrthoTensor> tensors;
        tensors.reserve(pairs.size());
        for (const auto& [weight, gradient, count] : pairs) {
          tensors.push_back({.weight = pointer(weight), .gradient = pointer(gradient), .count = count});
        }
        const py::gil_scoped_release release;
        orthogonalize(tensors, threads, isa_or_best(isa));
      },
      py::arg("tensors"), py::arg("threads"), py::arg("isa") = "",
      "Replace float32 gradients by their parts perpendicular to the weights; tensors by address.");
  // Weight, gradient, both moments, number of elements and both bias corrections.
  using Row = std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, double, double>;
  module.def(
      "ortho_adamw",
      [](const std::vector<Row>& rows, double lr, double beta1, double beta2, double eps, double weight_decay,
         bool project_update, int threads, const std::string& isa) {
        std::vector<OrthoTensor> tensors;
        tensors.reserve(rows.size());
        for (const auto& [weight, gradient, exp_avg, exp_avg_sq, count, correction1, correction2] : rows) {
          tensors.push_back({.weight = pointer(weight),
                             .gradient = pointer(gradient),
                             .exp_avg = pointer(exp_avg),
                             .exp_avg_sq = pointer(exp_avg_sq),
                             .count = count,
                             .correction1 = correction1,
                             .correction2 = correction2});
        }
        const py::gil_scoped_release release;
        ortho_adamw(tensors,
                    {.lr = lr,
                     .beta1 = beta1,
                     .beta2 = beta2,
                     .eps = eps,
                     .weight_decay = weight_decay,
                     .project_update = project_update},
                    threads, isa_or_best(isa));
      },
      py::arg("tensors"), py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
      py::arg("project_update"), py::arg("threads"), py::arg("isa") = "",
      "One AdamW step on float32 tensors with the gradient, or the update, projected; tensors by address.");
}

}  // namespace fluxcore::python
