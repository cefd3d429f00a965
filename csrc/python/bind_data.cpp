#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/crc32c.hpp"
#include "data/errors.hpp"
#include "data/shard_writer.hpp"
#include "python/bind.hpp"
#include "python/numpy.hpp"

namespace py = pybind11;

namespace fluxcore::python {
namespace {

py::object known(std::uint64_t value) {
  return value == data::CorruptShard::kUnknown ? py::object(py::none()) : py::object(py::int_(value));
}

void raise_corrupt_shard(const data::CorruptShard& error) {
  const py::object type = py::module_::import("fluxcore.errors").attr("CorruptShardError");
  const py::object instance =
      type(error.what(), py::arg("shard") = error.shard(), py::arg("chunk") = known(error.chunk()),
           py::arg("document") = known(error.document()));
  PyErr_SetObject(type.ptr(), instance.ptr());
}

void raise_os_error(int code, const std::string& message, const std::filesystem::path& path) {
  // Python picks the subclass (FileNotFoundError, PermissionError, ...) by the number.
  PyErr_SetObject(PyExc_OSError, py::make_tuple(code, message, path.string()).ptr());
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(std::move(pointer));
  } catch (const data::CorruptShard& error) {
    raise_corrupt_shard(error);
  } catch (const data::FileError& error) {
    raise_os_error(error.code().value(), error.action() + ": " + error.code().message(), error.path1());
  } catch (const std::filesystem::filesystem_error& error) {
    raise_os_error(error.code().value(), error.code().message(), error.path1());
  }
}

using ColumnNames = std::vector<std::pair<std::string, std::string>>;  // name, type

data::ShardSpec make_spec(const std::string& kind, const std::string& dtype, std::uint32_t chunk_tokens,
                          std::uint64_t vocab_size, const py::bytes& uuid, std::uint32_t shard_number,
                          const py::bytes& tokenizer, const py::bytes& parent, const ColumnNames& columns,
                          std::optional<std::string> sort_column, bool sort_descending, bool token_mask) {
  data::ShardSpec spec;
  spec.kind = kind == "sidecar" ? data::FileKind::sidecar : data::FileKind::shard;
  spec.token_type = data_type(dtype);
  spec.chunk_tokens = chunk_tokens;
  spec.vocab_size = vocab_size;
  spec.uuid = bytes16(uuid);
  spec.shard_number = shard_number;
  spec.tokenizer = bytes16(tokenizer);
  spec.parent = bytes16(parent);
  for (const auto& [name, type] : columns) spec.columns.push_back({name, data_type(type)});
  spec.sort_column = std::move(sort_column);
  spec.sort_descending = sort_descending;
  spec.token_mask = token_mask;
  return spec;
}

void append(data::ShardWriter& writer, std::uint64_t count, const std::optional<py::array>& tokens,
            const std::optional<py::array>& mask, const std::vector<py::array>& columns) {
  std::vector<std::span<const std::byte>> spans;
  spans.reserve(columns.size());
  for (const py::array& column : columns) spans.push_back(bytes_of(column));
  const auto token_bytes = tokens ? bytes_of(*tokens) : std::span<const std::byte>();
  const auto mask_bytes = mask ? bytes_of(*mask) : std::span<const std::byte>();
  const py::gil_scoped_release release;
  writer.append(count, token_bytes, mask_bytes, spans);
}

py::tuple finish(data::ShardWriter& writer) {
  data::ShardSummary summary;
  {
    const py::gil_scoped_release release;
    summary = writer.finish();
  }
  return py::make_tuple(summary.bytes, summary.chunks, to_bytes(summary.root));
}

}  // namespace

void bind_data(py::module_& module) {
  py::register_local_exception_translator(translate);

  module.def(
      "crc32c",
      [](const py::bytes& bytes) {
        const auto view = static_cast<std::string_view>(bytes);
        return data::crc32c(std::as_bytes(std::span(view.data(), view.size())));
      },
      py::arg("data"));
  module.def(
      "publish_file",
      [](const std::filesystem::path& path, const py::bytes& bytes) {
        const auto view = static_cast<std::string_view>(bytes);
        data::AtomicFile file(path);
        file.append(std::as_bytes(std::span(view.data(), view.size())));
        file.commit();
      },
      py::arg("path"), py::arg("data"),
      "Write a file that appears under its name whole or not at all, and survives a crash once this has returned.");
  module.def("fault_of_column_name", &data::fault_of_name, py::arg("name"));

  py::class_<data::ShardWriter>(module, "ShardWriter")
      .def(py::init([](const std::filesystem::path& path, const std::string& kind, const std::string& dtype,
                       std::uint32_t chunk_tokens, std::uint64_t vocab_size, const py::bytes& uuid,
                       std::uint32_t shard_number, const py::bytes& tokenizer, const py::bytes& parent,
                       const ColumnNames& columns, std::optional<std::string> sort_column, bool sort_descending,
                       bool token_mask) {
             return std::make_unique<data::ShardWriter>(
                 path, make_spec(kind, dtype, chunk_tokens, vocab_size, uuid, shard_number, tokenizer, parent, columns,
                                 std::move(sort_column), sort_descending, token_mask));
           }),
           py::arg("path"), py::kw_only(), py::arg("kind"), py::arg("dtype"), py::arg("chunk_tokens"),
           py::arg("vocab_size"), py::arg("uuid"), py::arg("shard_number"), py::arg("tokenizer"), py::arg("parent"),
           py::arg("columns"), py::arg("sort_column"), py::arg("sort_descending"), py::arg("token_mask"))
      .def("append", &append, py::arg("count"), py::arg("tokens"), py::arg("mask"), py::arg("columns"))
      .def("finish", &finish, "Publish the file; returns bytes, chunks and the root hash.")
      .def("discard", &data::ShardWriter::discard)
      .def_property_readonly("chunk_count", &data::ShardWriter::chunk_count);
}

}  // namespace fluxcore::python
