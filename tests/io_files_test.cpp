// SPDX-License-Identifier: MIT
// Files that are replaced whole or not at all: what full disks, failing disks and killed writers leave behind, and what
// becomes of permissions, links, pipes and devices.
#include <cerrno>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "gma/io/npy.hpp"
#include "gma/io/write_file.hpp"
#include "io_support.hpp"

#if defined(__unix__)
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#endif
#if defined(__GLIBC__) && defined(__linux__)
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#define GMA_TEST_SEES_CALLS
#endif

namespace gma_test {
namespace {

using gma::io::write_file;
using Names = std::vector<std::string>;

void expect_not_written(const std::filesystem::path& path, const std::string& bytes, const std::string& reason) {
  expect_error<std::runtime_error>([&] { write_file(path, bytes); },
                                   {"gma::io::write_file: " + path.string() + ": cannot be written: ", reason});
}

TEST(WrittenFiles, HoldTheBytesAndNothingIsLeft) {
  const Folder folder;
  for (const std::string& bytes : {std::string("first"), std::string(), std::string("\0\xff\n", 3)}) {
    write_file(folder / "a", bytes);
    EXPECT_EQ(contents(folder / "a"), bytes);
  }
  const std::string long_name(255, 'x');
  write_file(folder / long_name, "long");
  EXPECT_EQ(contents(folder / long_name), "long");
  EXPECT_EQ(folder.names(), (Names{"a", long_name}));
}

TEST(WrittenFiles, TakeNamesInAnyScript) {
  const Folder folder;
  std::filesystem::path path = folder / "x";
  path.replace_filename(std::filesystem::u8path("\xc3\xa4\xe4\xb8\xad.npy"));
  const Tensor tensor = some_tensor(DataType::f32, {2, 3});
  gma::io::write_npy(path, tensor);
  EXPECT_EQ(gma::io::read_npy(path).bytes, tensor.bytes);
  write_file(path, "no array");
  expect_error<std::runtime_error>([&] { gma::io::read_npy(path); }, {"\xc3\xa4\xe4\xb8\xad.npy: "});
}

TEST(WrittenFiles, FaultsNameThePathAndTheReason) {
  const Folder folder;
  std::filesystem::create_directory(folder / "folder");
  expect_not_written(folder / "folder", "x", "Is a directory");
  expect_not_written(folder / "none" / "a", "x", "No such file");
  expect_not_written("", "x", "No such file");
  EXPECT_EQ(folder.names(), Names{"folder"});
}

#if defined(__unix__)

/// f() in a process of its own, and how that ended.
template <class F>
int in_child(F&& f) {
  const pid_t child = fork();
  if (child == 0) {
    f();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

mode_t mode_of(const std::filesystem::path& path) {
  struct stat found {};
  EXPECT_EQ(lstat(path.c_str(), &found), 0);
  return found.st_mode;
}

TEST(WrittenFiles, KeepTheirPermissions) {
  const Folder folder;
  const mode_t mask = umask(027);
  write_file(folder / "new", "x");
  EXPECT_EQ(mode_of(folder / "new") & 07777, 0640u);
  for (const mode_t mode : {0600u, 0640u, 0444u, 0666u, 0755u, 0604u}) {
    ASSERT_EQ(chmod((folder / "new").c_str(), mode), 0);
    write_file(folder / "new", "y");
    EXPECT_EQ(mode_of(folder / "new") & 07777, mode);
  }
  umask(mask);
}

TEST(WrittenFiles, KeepTheirOwner) {
  const Folder folder;
  write_file(folder / "a", "x");
  if (chown((folder / "a").c_str(), 12345, 23456) != 0) GTEST_SKIP() << "only root gives files away";
  write_file(folder / "a", "y");
  struct stat found {};
  ASSERT_EQ(stat((folder / "a").c_str(), &found), 0);
  EXPECT_EQ(found.st_uid, 12345u);
  EXPECT_EQ(found.st_gid, 23456u);
}

TEST(WrittenFiles, LinksStayLinks) {
  const Folder folder;
  std::filesystem::create_directory(folder / "store");
  write_file(folder / "store" / "real", "old");
  std::filesystem::create_symlink("store/real", folder / "link");
  std::filesystem::create_symlink(folder / "link", folder / "second");
  write_file(folder / "second", "new");
  EXPECT_EQ(contents(folder / "store" / "real"), "new");
  std::filesystem::create_symlink("store/later", folder / "dangling");
  write_file(folder / "dangling", "made");
  EXPECT_EQ(contents(folder / "store" / "later"), "made");
  for (const char* name : {"link", "second", "dangling"}) EXPECT_TRUE(std::filesystem::is_symlink(folder / name));
  std::filesystem::create_symlink("loop", folder / "loop");
  expect_not_written(folder / "loop", "x", "symbolic link");
  EXPECT_EQ(folder.names(), (Names{"dangling", "link", "loop", "second", "store"}));
}

TEST(WrittenFiles, PipesAndDevicesAreWrittenInto) {
  const Folder folder;
  const std::filesystem::path pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  expect_not_written(pipe, "x", "No such device");  // nobody reads
  const std::string sent(300000, 'p');              // more than a pipe holds
  const int end = open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(end, 0);
  std::string received;
  std::thread reader([&] {
    fcntl(end, F_SETFL, 0);
    char block[4096];
    while (received.size() < sent.size()) {
      const ssize_t count = read(end, block, sizeof block);
      if (count > 0) received.append(block, static_cast<std::size_t>(count));
      if (count <= 0) std::this_thread::yield();
    }
  });
  write_file(pipe, sent);
  reader.join();
  ::close(end);
  EXPECT_EQ(received, sent);
  EXPECT_TRUE(S_ISFIFO(mode_of(pipe)));
  if (access("/dev/full", W_OK) == 0) {
    std::filesystem::create_symlink("/dev/full", folder / "full");
    expect_not_written(folder / "full", "x", "No space left");
    EXPECT_TRUE(S_ISCHR(mode_of("/dev/full")));
  }
  EXPECT_EQ(folder.names().front(), access("/dev/full", W_OK) == 0 ? "full" : "pipe");
}

TEST(WrittenFiles, AnOpenFileWithoutANameIsWrittenInto) {
  const Folder folder;
  write_file(folder / "a", "a longer text");
  const int file = open((folder / "a").c_str(), O_RDWR);
  ASSERT_GE(file, 0);
  std::filesystem::remove(folder / "a");
  const std::filesystem::path link = "/proc/self/fd/" + std::to_string(file);
  if (std::filesystem::is_symlink(link)) {
    write_file(link, "text");
    EXPECT_EQ(contents(link), "text");
  }
  ::close(file);
  EXPECT_EQ(folder.names(), Names());
}

/// With 100 bytes a file meets the end of the disk while it lies in any buffer, with 100,000 it does not.
TEST(WrittenFiles, AFullDiskLeavesTheOldFile) {
  const Folder folder;
  write_file(folder / "a", "old");
  for (const std::size_t room : {std::size_t{0}, std::size_t{1}, std::size_t{99}, std::size_t{65536}}) {
    const std::string bytes(room < 100 ? 100 : 100000, 'x');
    const bool limited = with_small_files([&] { expect_not_written(folder / "a", bytes, "File too large"); }, room);
    if (!limited) GTEST_SKIP() << "no limit on the size of files here";
    EXPECT_EQ(contents(folder / "a"), "old");
    EXPECT_EQ(folder.names(), Names{"a"});
  }
}

TEST(WrittenFiles, AWriterThatIsKilledCostsNothing) {
  const Folder folder;
  const std::filesystem::path path = folder / "a";
  const auto whole = [](char letter) { return std::string(std::size_t{1} << 20, letter); };
  write_file(path, whole('a'));
  for (int round = 0; round < 40; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      for (char letter = 'b';; letter = letter == 'z' ? 'a' : static_cast<char>(letter + 1)) {
        write_file(path, whole(letter));
      }
    }
    usleep(static_cast<useconds_t>(200 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const std::string found = contents(path);
    ASSERT_EQ(found.size(), whole('a').size());
    ASSERT_EQ(found, whole(found[0]));
    ASSERT_LE(folder.names().size(), 2u);  // the file, and at most one that was not finished
  }
  write_file(path, "last");
  EXPECT_EQ(folder.names(), Names{"a"});
}

TEST(WrittenFiles, LeftoversGoAndLiveWritersStay) {
  const Folder folder;
  const std::filesystem::path path = folder / "a", temporary = gma::io::detail::temporary_name(path, 0);
  write(temporary, "left by a writer that was killed");
  write_file(path, "one");
  EXPECT_EQ(folder.names(), Names{"a"});

  write(temporary, "being written");
  const int live = open(temporary.c_str(), O_WRONLY);
  ASSERT_EQ(flock(live, LOCK_EX), 0);
  write_file(path, "two");
  EXPECT_EQ(contents(path), "two");
  EXPECT_EQ(contents(temporary), "being written");
  ::close(live);

  std::filesystem::remove(temporary);
  write(folder / "mine", "not to be written");
  std::filesystem::create_symlink("mine", temporary);  // nobody's leftover
  write_file(path, "three");
  EXPECT_EQ(contents(path), "three");
  EXPECT_EQ(contents(folder / "mine"), "not to be written");
}

TEST(WrittenFiles, WritersOfOneFileDoNotDisturbEachOther) {
  const Folder folder;
  const std::filesystem::path path = folder / "a";
  std::vector<std::thread> writers;
  for (char letter = 'a'; letter < 'e'; ++letter) {
    writers.emplace_back([&path, letter] {
      for (int i = 0; i < 50; ++i) write_file(path, std::string(10000, letter));
    });
  }
  for (std::thread& writer : writers) writer.join();
  const std::string found = contents(path);
  ASSERT_EQ(found.size(), 10000u);
  EXPECT_EQ(found, std::string(10000, found[0]));
  EXPECT_EQ(folder.names(), Names{"a"});
}

#endif

#if defined(GMA_TEST_SEES_CALLS)

std::mutex calls_mutex;
Names calls;               // of fsync and rename, in order
int fsync_fails_with = 0;  // an errno

void note(const char* call) {
  const std::lock_guard<std::mutex> lock(calls_mutex);
  calls.push_back(call);
}

TEST(WrittenFiles, ReachTheDiskBeforeTheyTakeTheName) {
  const Folder folder;
  calls.clear();
  write_file(folder / "a", "x");
  EXPECT_EQ(calls, (Names{"fsync file", "rename", "fsync folder"}));
}

TEST(WrittenFiles, ADiskThatFailsLateLeavesTheOldFile) {
  const Folder folder;
  write_file(folder / "a", "old");
  for (const int reason : {ENOSPC, EIO, EDQUOT}) {
    fsync_fails_with = reason;
    expect_not_written(folder / "a", "new", std::generic_category().message(reason));
    fsync_fails_with = 0;
    EXPECT_EQ(contents(folder / "a"), "old");
    EXPECT_EQ(folder.names(), Names{"a"});
  }
  fsync_fails_with = EINVAL;  // a file that lies on no disk
  write_file(folder / "a", "new");
  fsync_fails_with = 0;
  EXPECT_EQ(contents(folder / "a"), "new");
}

TEST(WrittenFiles, AFullFileSystemLeavesTheOldFile) {
  const Folder folder;
  std::filesystem::create_directory(folder / "disk");
  const std::filesystem::path path = folder / "disk" / "a";
  const int status = in_child([&] {
    const bool mounted = unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                         mount("none", (folder / "disk").c_str(), "tmpfs", 0, "size=64k") == 0;
    if (!mounted) _exit(77);
    write_file(path, std::string(20000, 'o'));
    for (const std::size_t size : {std::size_t{60000}, std::size_t{1000000}}) {
      expect_not_written(path, std::string(size, 'n'), "No space left");
      EXPECT_EQ(contents(path), std::string(20000, 'o'));
    }
    const auto begin = std::filesystem::directory_iterator(folder / "disk");
    EXPECT_EQ(std::distance(begin, std::filesystem::directory_iterator()), 1);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  });
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no file system can be mounted here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

#endif

}  // namespace
}  // namespace gma_test

#if defined(GMA_TEST_SEES_CALLS)

// In the place of the C library's: the same, and a note that they were called.
extern "C" int fsync(int file) {
  struct stat found {};
  fstat(file, &found);
  gma_test::note(S_ISDIR(found.st_mode) ? "fsync folder" : "fsync file");
  if (gma_test::fsync_fails_with != 0) errno = gma_test::fsync_fails_with;
  return gma_test::fsync_fails_with != 0 ? -1 : static_cast<int>(syscall(SYS_fsync, file));
}

extern "C" int rename(const char* from, const char* to) noexcept {
  gma_test::note("rename");
  return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0u));
}

#endif
