#include "data/errors.hpp"

#include <cerrno>

namespace fluxcore::data {
namespace {

std::string place(const std::filesystem::path& path, std::uint64_t chunk, std::uint64_t document) {
  std::string text = "`" + path.string() + "`";
  if (chunk != CorruptShard::kUnknown) text += ", chunk " + std::to_string(chunk);
  if (document != CorruptShard::kUnknown) text += ", document " + std::to_string(document);
  return text;
}

}  // namespace

CorruptShard::CorruptShard(const std::filesystem::path& path, const std::string& why)
    : CorruptShard(path, why, kUnknown, kUnknown) {}

CorruptShard::CorruptShard(const std::filesystem::path& path, const std::string& why, std::uint64_t chunk,
                           std::uint64_t document)
    : std::runtime_error(place(path, chunk, document) + " is corrupt: " + why),
      shard_(path.filename().string()),
      chunk_(chunk),
      document_(document) {}

void throw_errno(const std::string& what, const std::filesystem::path& path) {
  throw FileError(what, path, std::error_code(errno, std::generic_category()));
}

}  // namespace fluxcore::data
