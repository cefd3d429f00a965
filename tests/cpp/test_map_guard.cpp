#include <doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>
#include <vector>

#include "data/map_guard.hpp"
#include "shard_fixture.hpp"

using namespace fluxcore::data;

namespace {

// A map of two pages whose file has none any more.
class CutFile {
 public:
  CutFile() {
    write_file(folder_ / "file", std::vector<char>(2 * kPage, 'x'));
    map_ = std::make_unique<MappedFile>(folder_ / "file");
    std::filesystem::resize_file(folder_ / "file", 0);
  }
  void read() const { sum = static_cast<unsigned char>(map_->bytes()[kPage]); }

  static volatile unsigned char sum;

 private:
  TemporaryFolder folder_;
  std::unique_ptr<MappedFile> map_;
};

volatile unsigned char CutFile::sum = 0;

constexpr int kSeenByOther = 42;
struct sigaction below_other = {};

void set_handler(void (*handler)(int), struct sigaction* before) {
  struct sigaction other = {};
  other.sa_handler = handler;
  other.sa_flags = SA_NODEFER;
  REQUIRE(::sigaction(SIGBUS, &other, before) == 0);
}

void end_process(int /*signal*/) { ::_exit(kSeenByOther); }

// As Python's faulthandler: puts back what was there before it, and lets that have the signal.
void pass_down(int signal) {
  ::sigaction(signal, &below_other, nullptr);
  ::raise(signal);
}

// How a child ends in which `body` runs, before which nothing answers SIGBUS.
template <class Body>
int status_of_child(Body&& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGBUS, SIG_DFL);
    body();
    ::_exit(0);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

bool is_exit(int status, int code) { return WIFEXITED(status) && WEXITSTATUS(status) == code; }
bool is_bus_error(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS; }

}  // namespace

TEST_CASE("a read that cannot be made is left, also inside another and in several threads at once") {
  const CutFile file;
  bool inner = true;
  CHECK(read_mapped([&] { inner = read_mapped([&] { file.read(); }); }));
  CHECK_FALSE(inner);
  CHECK_FALSE(read_mapped([&] {
    inner = read_mapped([] {});
    file.read();
  }));
  CHECK(inner);
  std::vector<std::thread> threads;
  std::vector<int> left(4, 0);
  for (int& count : left) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) count += read_mapped([&] { file.read(); }) ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(left == std::vector<int>(4, 100));
}

TEST_CASE("reads are answered after something else has taken the signal") {
  const CutFile file;
  CHECK_FALSE(read_mapped([&] { file.read(); }));
  CHECK(is_exit(status_of_child([&] {
                  set_handler(end_process, nullptr);
                  if (read_mapped([&] { file.read(); })) ::_exit(1);
                }),
                0));
}

TEST_CASE("a read that is not guarded goes to what answered before, and ends the process where nothing did") {
  const CutFile file;
  const auto guarded = [&] {
    if (read_mapped([&] { file.read(); })) ::_exit(1);
  };
  CHECK(is_bus_error(status_of_child([&] {
    guarded();
    file.read();
  })));
  CHECK(is_exit(status_of_child([&] {
                  set_handler(end_process, nullptr);
                  guarded();
                  file.read();
                }),
                kSeenByOther));
  CHECK(is_bus_error(status_of_child([&] {
    guarded();
    set_handler(pass_down, &below_other);
    guarded();
    file.read();
  })));
}

TEST_CASE("a signal that was sent is no read that failed") {
  CHECK(is_exit(status_of_child([] {
                  set_handler(end_process, nullptr);
                  if (!read_mapped([] { ::raise(SIGBUS); })) ::_exit(1);
                }),
                kSeenByOther));
}
