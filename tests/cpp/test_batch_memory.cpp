#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "data/batch_memory.hpp"
#include "doctest.h"

using fluxcore::data::BatchMemory;

TEST_CASE("the block that was given back last is taken first, and begins a cache line") {
  const auto memory = BatchMemory::make(100, 3);
  auto first = memory->take();
  auto second = memory->take();
  const std::byte* const one = first.get();
  const std::byte* const two = second.get();
  CHECK(one != two);
  CHECK(reinterpret_cast<std::uintptr_t>(one) % 64 == 0);
  second.reset();
  first.reset();
  const auto again = memory->take();
  const auto after = memory->take();
  CHECK(again.get() == one);
  CHECK(after.get() == two);
}

TEST_CASE("of the free blocks, those are taken first that the same thread wrote") {
  const auto memory = BatchMemory::make(64, 3);
  auto first = memory->take(1);
  auto second = memory->take(2);
  auto third = memory->take(1);
  const std::byte* const one = first.get();
  const std::byte* const two = second.get();
  const std::byte* const three = third.get();
  first.reset();
  third.get_deleter().writer = 3;  // another one wrote it in the end
  second.reset();
  third.reset();
  const auto by_one = memory->take(1);
  CHECK(by_one.get() == one);
  const auto by_anyone = memory->take(1);  // none is left that it wrote: the last one given back
  CHECK(by_anyone.get() == three);
  CHECK(memory->take(1).get() == two);
}

TEST_CASE("blocks outlive the hands that they came from") {
  BatchMemory::Block block;
  {
    const auto memory = BatchMemory::make(64, 1);
    block = memory->take();
  }
  block.get()[63] = std::byte{7};
  CHECK(block.get()[63] == std::byte{7});
}

TEST_CASE("threads never hold the same block") {
  const auto memory = BatchMemory::make(sizeof(int), 2);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        const auto block = memory->take();
        auto* const mark = reinterpret_cast<int*>(block.get());
        *mark = t;
        std::this_thread::yield();
        if (*mark != t) ++wrong[static_cast<std::size_t>(t)];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
}
