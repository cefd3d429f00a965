// Writes the shards that the fuzzer begins with into the folder that it is given.
#include <cstdlib>
#include <iostream>

#include "shard_fixture.hpp"

using namespace fluxcore::data;

namespace {

void write_sidecar(const std::filesystem::path& path) {
  ShardSpec spec = tiny_spec();
  spec.kind = FileKind::sidecar;
  spec.parent = {7};
  spec.columns = {{"gpt2.entropy", DataType::f32}, {"rank", DataType::u8}};
  const std::vector<float> entropy = {1.0F, 2.0F, 3.0F};
  const std::vector<std::uint8_t> rank = {0, 1, 2};
  const std::vector<std::span<const std::byte>> columns = {bytes(entropy), bytes(rank)};
  ShardWriter writer(path, spec);
  writer.append(kTinyChunks, {}, {}, columns);
  writer.finish();
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "one argument is needed, the folder for the seeds\n";
    return EXIT_FAILURE;
  }
  const std::filesystem::path folder = arguments[1];
  std::filesystem::create_directories(folder);
  ShardSpec spec = tiny_spec();
  write_tiny(folder / "plain", spec);
  spec.token_mask = true;
  write_tiny(folder / "masked", spec);
  spec.sort_column = "entropy_mean";
  write_tiny(folder / "sorted", spec);
  write_sidecar(folder / "sidecar");
  return EXIT_SUCCESS;
}
