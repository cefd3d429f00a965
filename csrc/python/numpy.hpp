#pragma once

#include <pybind11/numpy.h>

#include <cstring>
#include <span>
#include <stdexcept>
#include <string>

#include "data/layout.hpp"

namespace fluxcore::python {

inline std::span<const std::byte> bytes_of(const pybind11::array& array) {
  if ((array.flags() & pybind11::array::c_style) == 0) throw std::invalid_argument("arrays must be C-contiguous");
  return {static_cast<const std::byte*>(array.data()), static_cast<std::size_t>(array.nbytes())};
}

inline data::Bytes16 bytes16(const pybind11::bytes& bytes) {
  const auto view = static_cast<std::string_view>(bytes);
  data::Bytes16 out = {};
  if (view.size() != out.size()) throw std::invalid_argument("16 bytes expected, got " + std::to_string(view.size()));
  std::memcpy(out.data(), view.data(), out.size());
  return out;
}

inline pybind11::bytes to_bytes(const data::Bytes16& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline pybind11::dtype numpy_type(data::DataType type) { return pybind11::dtype(std::string(data::name_of(type))); }

// Throws std::invalid_argument for a name that is no DataType.
inline data::DataType data_type(std::string_view name) {
  using data::DataType;
  for (const DataType type : {DataType::u8, DataType::u16, DataType::u32, DataType::u64, DataType::f32}) {
    if (data::name_of(type) == name) return type;
  }
  throw std::invalid_argument("data type must be one of uint8, uint16, uint32, uint64, float32, got `" +
                              std::string(name) + "`");
}

// A read-only one-dimensional view of `bytes`, which `owner` keeps alive.
inline pybind11::array view_of(std::span<const std::byte> bytes, const pybind11::dtype& type, pybind11::handle owner) {
  pybind11::array view(type, {static_cast<pybind11::ssize_t>(bytes.size()) / type.itemsize()}, {}, bytes.data(), owner);
  pybind11::detail::array_proxy(view.ptr())->flags &= ~pybind11::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return view;
}

}  // namespace fluxcore::python
