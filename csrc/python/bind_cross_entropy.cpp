#include <cstdint>
#include <string>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "ops/cross_entropy.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {
namespace {

// Tensors come as addresses (Tensor.data_ptr()), so that the extension needs nothing of torch.
using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr)
}

Isa isa_of(const std::string& name) { return name.empty() ? best_isa() : isa_from_name(name); }

// Tensors and options as in the schema of the op, fluxcore/ops/_cross_entropy_op.py; outputs are bits of
// SoftmaxStatsOutput, and after them one for the argmax.
CrossEntropyCall make_call(Address x, const std::string& dtype, std::int64_t rows, std::int64_t classes,
                           std::int64_t row_stride, Address target, std::int64_t target_stride, Address weight,
                           Address token_weight, Address penalty_mask, const std::string& link,
                           const std::string& reduction, std::int64_t ignore_index, double label_smoothing,
                           double lse_square_scale, const std::string& penalty, double penalty_coef, int top_k,
                           unsigned outputs, double temperature, double softcap, int threads, const std::string& isa) {
  const bool probabilities = target_stride != 0;
  constexpr unsigned kReal = (1U << kSoftmaxStatsOutputs) - 1;
  return {.logits = {.x = pointer<void>(x),
                     .dtype = dtype_from_name(dtype),
                     .rows = rows,
                     .classes = classes,
                     .row_stride = row_stride,
                     .target = probabilities ? nullptr : pointer<std::int64_t>(target),
                     .outputs = outputs & kReal,
                     .top_k = top_k,
                     .transform = {.temperature = temperature, .softcap = softcap},
                     .threads = threads,
                     .isa = isa_of(isa)},
          .argmax_wanted = (outputs & ~kReal) != 0,
          .probabilities = probabilities ? pointer<void>(target) : nullptr,
          .probability_stride = target_stride,
          .weight = pointer<void>(weight),
          .token_weight = pointer<void>(token_weight),
          .penalty_mask = pointer<void>(penalty_mask),
          .link = link_from_name(link),
          .reduction = reduction_from_name(reduction),
          .ignore_index = ignore_index,
          .label_smoothing = label_smoothing,
          .lse_square_scale = lse_square_scale,
          .penalty = penalty_from_name(penalty),
          .penalty_coef = penalty_coef};
}

void bind_call(py::module_& module) {
  py::class_<CrossEntropyCall>(module, "CrossEntropyCall",
                               "Inputs and options of both passes; all tensors by address, which keeps none alive.")
      .def(py::init(&make_call), py::arg("x"), py::arg("dtype"), py::arg("rows"), py::arg("classes"),
           py::arg("row_stride"), py::arg("target"), py::arg("target_stride"), py::arg("weight"),
           py::arg("token_weight"), py::arg("penalty_mask"), py::arg("link"), py::arg("reduction"),
           py::arg("ignore_index"), py::arg("label_smoothing"), py::arg("lse_square_scale"), py::arg("penalty"),
           py::arg("penalty_coef"), py::arg("top_k"), py::arg("outputs"), py::arg("temperature"), py::arg("softcap"),
           py::arg("threads"), py::arg("isa") = "");
}

void bind_forward(py::module_& module) {
  module.def(
      "cross_entropy_fwd",
      [](const CrossEntropyCall& call, Address loss, Address stats, Address argmax, Address state, Address top_index,
         Address totals, Address gradient) {
        const py::gil_scoped_release release;
        cross_entropy_fwd(call, {.loss = pointer<void>(loss),
                                 .stats = pointer<void>(stats),
                                 .argmax = pointer<std::int64_t>(argmax),
                                 .state = pointer<void>(state),
                                 .top_index = pointer<std::int32_t>(top_index),
                                 .totals = pointer<void>(totals),
                                 .gradient = pointer<void>(gradient)});
      },
      py::arg("call"), py::arg("loss"), py::arg("stats"), py::arg("argmax"), py::arg("state"), py::arg("top_index"),
      py::arg("totals"), py::arg("gradient"),
      "Fill loss, stats, argmax, state, top_index, totals and, unless it is 0, gradient; all tensors by address.");
}

void bind_backward(py::module_& module) {
  module.def(
      "cross_entropy_bwd",
      [](const CrossEntropyCall& call, Address upstream, std::int64_t upstream_stride, Address argmax, Address state,
         Address top_index, Address totals, Address gradient) {
        const py::gil_scoped_release release;
        cross_entropy_bwd(call, {.upstream = pointer<void>(upstream),
                                 .upstream_stride = upstream_stride,
                                 .argmax = pointer<std::int64_t>(argmax),
                                 .state = pointer<void>(state),
                                 .top_index = pointer<std::int32_t>(top_index),
                                 .totals = pointer<void>(totals),
                                 .gradient = pointer<void>(gradient)});
      },
      py::arg("call"), py::arg("upstream"), py::arg("upstream_stride"), py::arg("argmax"), py::arg("state"),
      py::arg("top_index"), py::arg("totals"), py::arg("gradient"),
      "Fill gradient with that of sum(upstream * loss) by the logits; all tensors by address.");
}

}  // namespace

void bind_cross_entropy(py::module_& module) {
  bind_call(module);
  bind_forward(module);
  bind_backward(module);
  module.def(
      "scale_",
      [](Address gradient, const std::string& dtype, std::int64_t count, Address scale, int threads) {
        const DType type = dtype_from_name(dtype);
        const double by =
            type == DType::float64 ? *pointer<double>(scale) : static_cast<double>(*pointer<float>(scale));
        const py::gil_scoped_release release;
        scale_in_place(pointer<void>(gradient), type, count, by, threads, best_isa());
      },
      py::arg("gradient"), py::arg("dtype"), py::arg("count"), py::arg("scale"), py::arg("threads"),
      "Multiply gradient by one number of the loss's type; both by address.");
}

}  // namespace fluxcore::python
