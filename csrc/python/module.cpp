#include "python/bind.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "C++ core of fluxcore. Private: use the functions of the fluxcore package.";
  fluxcore::python::bind_common(module);
  fluxcore::python::bind_order(module);
  fluxcore::python::bind_data(module);
  fluxcore::python::bind_shard_set(module);
  fluxcore::python::bind_loader(module);
  fluxcore::python::bind_ortho(module);
  fluxcore::python::bind_prune(module);
  fluxcore::python::bind_softmax_stats(module);
  fluxcore::python::bind_cross_entropy(module);
  fluxcore::python::bind_kl_div(module);
  fluxcore::python::bind_gae(module);
}
