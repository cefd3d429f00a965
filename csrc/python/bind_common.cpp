#include "common/cpu.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {

void bind_common(py::module_& module) {
  module.def(
      "cpu_isa", [] { return std::string(isa_name(best_isa())); },
      "Name of the widest instruction set that this processor and this build both have.");
  module.def(
      "cpu_isas",
      [] {
        py::list names;
        for (const Isa isa : available_isas()) names.append(std::string(isa_name(isa)));
        return names;
      },
      "Names of the instruction sets that can be chosen here, narrowest first.");
}

}  // namespace fluxcore::python
