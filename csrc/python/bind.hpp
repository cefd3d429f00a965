#pragma once

#include <pybind11/pybind11.h>

// One register call a file bind_*.cpp; module.cpp calls each once.
namespace fluxcore::python {

void bind_common(pybind11::module_& module);
void bind_cross_entropy(pybind11::module_& module);
void bind_gae(pybind11::module_& module);
void bind_kl_div(pybind11::module_& module);
void bind_loader(pybind11::module_& module);
void bind_order(pybind11::module_& module);
void bind_data(pybind11::module_& module);       // errors, ShardWriter, small helpers
void bind_shard_set(pybind11::module_& module);  // ShardSet, Shard
void bind_ortho(pybind11::module_& module);      // orthogonalize, ortho_adamw
void bind_prune(pybind11::module_& module);      // select_smallest, prune_apply
void bind_softmax_stats(pybind11::module_& module);

}  // namespace fluxcore::python
