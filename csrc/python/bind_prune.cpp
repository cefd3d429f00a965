#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "ops/prune.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {
namespace {

// Tensors come as addresses (Tensor.data_ptr()), so that the extension needs nothing of torch.
template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr)
}

// Tensors as columns of the same length: weight, dtype, mask (0: none), gradient (0: none), elements, offset and key.
using Columns = std::tuple<std::vector<std::uintptr_t>, std::vector<std::string>, std::vector<std::uintptr_t>,
                           std::vector<std::uintptr_t>, std::vector<std::int64_t>, std::vector<std::int64_t>,
                           std::vector<std::uint64_t>>;

std::vector<PruneTensor> tensors_of(const Columns& columns) {
  const auto& [weights, dtypes, masks, gradients, counts, offsets, keys] = columns;
  std::vector<PruneTensor> tensors(weights.size());
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    tensors[t] = {.weight = pointer<void>(weights[t]),
                  .dtype = dtype_from_name(dtypes.at(t)),
                  .mask = pointer<std::uint8_t>(masks.at(t)),
                  .gradient = pointer<void>(gradients.at(t)),
                  .count = counts.at(t),
                  .offset = offsets.at(t),
                  .random_key = keys.at(t)};
  }
  return tensors;
}

Isa isa_or_best(const std::string& isa) { return isa.empty() ? best_isa() : isa_from_name(isa); }

}  // namespace

void bind_prune(py::module_& module) {
  module.def(
      "select_smallest",
      [](const Columns& tensors, const std::string& kind, std::uint64_t step, bool per_tensor, double fraction,
         const std::vector<std::int64_t>& k, bool ties, std::uintptr_t cuts, int threads, const std::string& isa) {
        const SelectCall call = {.tensors = tensors_of(tensors),
                                 .kind = key_kind_from_name(kind),
                                 .step = step,
                                 .per_tensor = per_tensor,
                                 .fraction = fraction,
                                 .k = k,
                                 .ties = ties,
                                 .threads = threads,
                                 .isa = isa_or_best(isa)};
        const py::gil_scoped_release release;
        select_smallest(call, pointer<Cut>(cuts));
      },
      py::arg("tensors"), py::arg("kind"), py::arg("step"), py::arg("per_tensor"), py::arg("fraction"), py::arg("k"),
      py::arg("ties"), py::arg("cuts"), py::arg("threads"), py::arg("isa") = "",
      "Fill one cut (key, index) a tensor that chooses the elements of smallest key.");
  module.def(
      "prune_apply",
      [](const Columns& tensors, const std::vector<std::tuple<std::uintptr_t, int, std::int64_t>>& states,
         std::uintptr_t drop, std::uintptr_t regrow, const std::string& regrow_kind, std::uint64_t step,
         const std::vector<float>& noise_std, int keep, int group, std::uintptr_t counts, int threads,
         const std::string& isa) {
        ApplyCall call = {.tensors = tensors_of(tensors),
                          .states = {},
                          .drop = pointer<Cut>(drop),
                          .regrow = pointer<Cut>(regrow),
                          .regrow_kind = key_kind_from_name(regrow_kind),
                          .step = step,
                          .keep = keep,
                          .group = group,
                          .threads = threads,
                          .isa = isa_or_best(isa)};
        for (std::size_t t = 0; t < call.tensors.size(); ++t) call.tensors[t].noise_std = noise_std.at(t);
        for (const auto& [data, element_size, tensor] : states) {
          if (element_size != 2 && element_size != 4 && element_size != 8) {
            throw std::invalid_argument("`element_size` must be 2, 4 or 8, got " + std::to_string(element_size));
          }
          call.states.push_back({.data = pointer<void>(data), .element_size = element_size, .tensor = tensor});
        }
        const py::gil_scoped_release release;
        prune_apply(call, pointer<PruneCounts>(counts));
      },
      py::arg("tensors"), py::arg("states"), py::arg("drop"), py::arg("regrow"), py::arg("regrow_kind"),
      py::arg("step"), py::arg("noise_std"), py::arg("keep"), py::arg("group"), py::arg("counts"), py::arg("threads"),
      py::arg("isa") = "",
      "Drop and regrow by cuts, or drop by a pattern, in place; fill dropped, regrown and active a tensor.");
}

}  // namespace fluxcore::python
