#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "data/describe.hpp"
#include "data/map_pool.hpp"
#include "data/shard_set.hpp"
#include "python/bind.hpp"
#include "python/numpy.hpp"

namespace py = pybind11;

namespace fluxcore::python {
namespace {

using Ids = py::array_t<std::uint64_t, py::array::c_style | py::array::forcecast>;
using Entry = std::tuple<std::string, std::uint64_t, std::uint64_t, py::bytes>;  // name, bytes, chunks, root

std::shared_ptr<data::ShardSet> open_set(const std::filesystem::path& folder, const py::bytes& uuid,
                                         const std::string& dtype, std::uint32_t chunk_tokens, std::uint64_t vocab_size,
                                         const py::bytes& tokenizer, const std::string& sort_column,
                                         bool sort_descending, const std::vector<Entry>& shards,
                                         std::optional<std::size_t> map_limit) {
  const data::SetSpec spec = {.uuid = bytes16(uuid),
                              .token_type = data_type(dtype),
                              .chunk_tokens = chunk_tokens,
                              .vocab_size = vocab_size,
                              .tokenizer = bytes16(tokenizer),
                              .sort_column = sort_column,
                              .sort_descending = sort_descending};
  std::vector<data::ShardEntry> entries;
  entries.reserve(shards.size());
  for (const auto& [name, bytes, chunks, root] : shards) entries.push_back({name, bytes, chunks, bytes16(root)});
  const py::gil_scoped_release release;
  auto pool = map_limit ? std::make_shared<data::MapPool>(*map_limit) : data::MapPool::of_process();
  return std::make_shared<data::ShardSet>(folder, spec, entries, std::move(pool));
}

// What keeps the bytes of a shard where they are: the set, where they stay as long as it lives, else a hold on them.
py::object keeper(const py::object& self, const data::Shard& shard, data::MapHold held) {
  if (shard.is_lasting()) return self;
  struct Kept {
    std::shared_ptr<data::ShardSet> set;
    data::MapHold held;  // last: let go before the set is
  };
  auto kept =
      std::make_unique<Kept>(Kept{.set = self.cast<std::shared_ptr<data::ShardSet>>(), .held = std::move(held)});
  py::capsule owner(kept.get(), [](void* object) { delete static_cast<Kept*>(object); });
  [[maybe_unused]] const Kept* handed_over = kept.release();
  return owner;
}

py::array chunk_view(const py::object& self, std::uint64_t id, bool verify) {
  const auto& set = self.cast<const data::ShardSet&>();
  if (verify) set.check_payload(id);
  data::ChunkPlace at = set.place(id);
  const auto tokens = at.shard->tokens(at.index);
  return view_of(tokens, numpy_type(set.token_type()), keeper(self, *at.shard, std::move(at.held)));
}

py::tuple gather(const data::ShardSet& set, const Ids& ids, const std::string& out, bool targets, bool verify) {
  const data::OutType type = data::out_type_from_name(out);
  const std::vector<py::ssize_t> shape = {ids.size(), static_cast<py::ssize_t>(set.chunk_tokens())};
  py::array tokens(py::dtype(out), shape);
  py::object const target_array = targets ? py::object(py::array(py::dtype(out), shape)) : py::object(py::none());
  const data::GatherOut where = {.type = type,
                                 .tokens = tokens.mutable_data(),
                                 .targets = targets ? target_array.cast<py::array>().mutable_data() : nullptr};
  {
    const std::span<const std::uint64_t> chunk_ids(ids.data(), static_cast<std::size_t>(ids.size()));
    const py::gil_scoped_release release;
    set.gather(chunk_ids, where, verify);
  }
  return py::make_tuple(std::move(tokens), target_array);
}

py::array_t<std::int64_t> describe(const data::ShardSet& set, const Ids& ids) {
  py::array_t<std::int64_t> out({static_cast<py::ssize_t>(data::kDescribed), ids.size()});
  const std::span<std::int64_t> facts(out.mutable_data(), static_cast<std::size_t>(out.size()));
  const std::span<const std::uint64_t> chunk_ids(ids.data(), static_cast<std::size_t>(ids.size()));
  const py::gil_scoped_release release;
  data::describe_chunks(set, chunk_ids, facts);
  return out;
}

// One shard's column; a shard without `valid_len` has only full chunks.
py::array shard_column(const py::object& self, std::size_t number, const std::string& name) {
  const auto& set = self.cast<const data::ShardSet&>();
  const data::Shard& shard = set.shard(number);
  const data::DataType type = shard.column_type(name);
  if (type == data::DataType::none && name == "valid_len") {
    py::array_t<std::uint32_t> full(static_cast<py::ssize_t>(shard.superblock().chunk_count));
    std::fill_n(full.mutable_data(), full.size(), set.chunk_tokens());
    return full;
  }
  if (type == data::DataType::none) throw py::key_error(name);
  data::MapHold held = shard.hold();
  const auto items = shard.column(name);
  return view_of(items, numpy_type(type), keeper(self, shard, std::move(held)));
}

py::object shard_mask(const py::object& self, std::uint64_t id, bool verify) {
  const auto& set = self.cast<const data::ShardSet&>();
  if (verify) set.check_payload(id);
  data::ChunkPlace at = set.place(id);
  const auto mask = at.shard->mask(at.index);
  if (mask.empty()) return py::none();
  return view_of(mask, numpy_type(data::DataType::u8), keeper(self, *at.shard, std::move(at.held)));
}

py::array sidecar_column(const py::object& self, const std::string& name) {
  const auto& shard = self.cast<const data::Shard&>();
  const data::DataType type = shard.column_type(name);
  if (type == data::DataType::none) throw py::key_error(name);
  return view_of(shard.column(name), numpy_type(type), self);
}

}  // namespace

void bind_shard_set(py::module_& module) {
  py::class_<data::ShardSet, std::shared_ptr<data::ShardSet>>(module, "ShardSet")
      .def(py::init(&open_set), py::arg("folder"), py::kw_only(), py::arg("uuid"), py::arg("dtype"),
           py::arg("chunk_tokens"), py::arg("vocab_size"), py::arg("tokenizer"), py::arg("sort_column"),
           py::arg("sort_descending"), py::arg("shards"), py::arg("map_limit") = py::none(),
           "`map_limit`: of a pool of this set's own; None: the process's, which has half of vm.max_map_count.")
      .def_property_readonly("chunk_count", &data::ShardSet::chunk_count)
      .def_property_readonly("chunk_tokens", &data::ShardSet::chunk_tokens)
      .def_property_readonly("vocab_size", &data::ShardSet::vocab_size)
      .def_property_readonly("shard_count", &data::ShardSet::shard_count)
      .def("base", &data::ShardSet::base, py::arg("shard"))
      .def("chunk", &chunk_view, py::arg("chunk_id"), py::arg("verify"))
      .def("mask", &shard_mask, py::arg("chunk_id"), py::arg("verify"))
      .def("gather", &gather, py::arg("ids"), py::kw_only(), py::arg("out"), py::arg("targets"), py::arg("verify"))
      .def("describe", &describe, py::arg("ids"),
           "Of each chunk: source, document, offset in it, valid length; [4, n].")
      .def(
          "column_names", [](const data::ShardSet& set, std::size_t shard) { return set.shard(shard).column_names(); },
          py::arg("shard"))
      .def("column", &shard_column, py::arg("shard"), py::arg("name"))
      .def("verify_shard", &data::ShardSet::verify_shard, py::arg("shard"), py::call_guard<py::gil_scoped_release>());

  py::class_<data::Shard>(module, "Sidecar")
      .def(py::init<std::filesystem::path>(), py::arg("path"))
      .def_property_readonly(
          "is_sidecar",
          [](const data::Shard& shard) { return shard.superblock().file_kind == data::FileKind::sidecar; })
      .def_property_readonly("uuid", [](const data::Shard& shard) { return to_bytes(shard.superblock().uuid); })
      .def_property_readonly("shard_number", [](const data::Shard& shard) { return shard.superblock().shard_number; })
      .def_property_readonly("parent", [](const data::Shard& shard) { return to_bytes(shard.superblock().parent); })
      .def_property_readonly("root", [](const data::Shard& shard) { return to_bytes(shard.root()); })
      .def_property_readonly("chunk_count", [](const data::Shard& shard) { return shard.superblock().chunk_count; })
      .def_property_readonly("size", &data::Shard::size)
      .def_property_readonly("column_names", &data::Shard::column_names)
      .def("column", &sidecar_column, py::arg("name"))
      .def("verify", &data::Shard::check_sections, py::call_guard<py::gil_scoped_release>());
}

}  // namespace fluxcore::python
