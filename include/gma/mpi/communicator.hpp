// SPDX-License-Identifier: MIT
// The processes that share one sequence, and the messages between them. Needs MPI (CMake target gma::mpi).
//
// What happens when a rank fails:
//
//   - A call whose arguments do not fit together, on one rank or between ranks, throws the same std::invalid_argument
//     on every rank before any work (agreement.hpp). The job may go on.
//   - An exception in the middle of a verb, such as std::bad_alloc, prints a message and ends the job (MPI_Abort):
//     the other ranks wait for messages that would never come.
//   - An exception that leaves the body of run() does the same. In a program without run(), call Communicator::abort()
//     where an exception would otherwise end one rank alone.
//   - Where a rank is killed, mpirun ends the others. An error inside MPI ends the job, which is MPI's default.
//   - Every rank must make the same calls in the same order. A rank that leaves a call out, and stays alive, lets the
//     others wait for ever.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "gma/core/checks.hpp"

namespace gma::mpi {

/// What this rank has sent: point-to-point messages, their bytes, and agreements (agreement.hpp), which are collectives
/// of a few hundred bytes.
struct Traffic {
  std::int64_t messages = 0, bytes = 0, agreements = 0;  ///< counts since the start
};

/// A group of processes in the order of the sequence: rank 0 holds its first tokens. One thread at a time may use it.
class Communicator {
 public:
  /// Collective over `parent`, which it duplicates, so that its messages meet no others. MPI must be initialised, and
  /// not yet finalised when the object is destroyed.
  explicit Communicator(MPI_Comm parent);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  Index rank() const { return rank_; }                 ///< of this process
  Index size() const { return size_; }                 ///< number of processes
  bool is_last() const { return rank_ + 1 == size_; }  ///< whether it holds the last tokens
  MPI_Comm handle() const { return handle_; }          ///< the duplicate, for MPI's own functions

  const Traffic& traffic() const { return traffic_; }  ///< since the start or reset_traffic()
  void reset_traffic() { traffic_ = Traffic(); }       ///< counts from zero
  void count_message(std::size_t bytes);               ///< for the library: a message was sent
  void count_agreement() { ++traffic_.agreements; }    ///< for the library: the ranks agreed on a call

  /// Prints "gma::<function>: rank <r> ends the job: <message>" and ends all processes.
  [[noreturn]] void abort(const char* function, const char* message) const;

 private:
  MPI_Comm handle_ = MPI_COMM_NULL;
  Index rank_ = 0, size_ = 1;
  Traffic traffic_;
};

/// Initialises MPI, returns what body(communicator of all processes) returns, and finalises MPI. An exception that
/// leaves the body ends the job.
template <class Body>
int run(int& argc, char**& argv, const Body& body);

// Implementation -----------------------------------------------------------------------------------------------------

inline Communicator::Communicator(MPI_Comm parent) {
  int rank = 0, size = 1;
  MPI_Comm_dup(parent, &handle_);
  MPI_Comm_rank(handle_, &rank);
  MPI_Comm_size(handle_, &size);
  rank_ = rank;
  size_ = size;
}

inline Communicator::~Communicator() { MPI_Comm_free(&handle_); }

inline void Communicator::count_message(std::size_t bytes) {
  ++traffic_.messages;
  traffic_.bytes += static_cast<std::int64_t>(bytes);
}

inline void Communicator::abort(const char* function, const char* message) const {
  std::fprintf(stderr, "gma::%s: rank %d ends the job: %s\n", function, static_cast<int>(rank_), message);
  std::fflush(stderr);
  MPI_Abort(handle_, 1);
  std::abort();
}

namespace detail {

/// body(), whose exceptions end the job.
template <class Body>
auto guarded(const Communicator& communicator, const char* function, const Body& body) -> decltype(body()) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
  try {
    return body();
  } catch (const std::exception& error) {
    communicator.abort(function, error.what());
  } catch (...) {
    communicator.abort(function, "an exception that is no std::exception");
  }
#else
  (void)communicator, (void)function;
  return body();
#endif
}

/// What a message is about. Messages of one tag between two ranks arrive in the order in which they were sent.
enum class Tag : int {
  scan = 1,
  reduce = 2,
  broadcast = 3,
  halo = 4,
  halo_gradient = 5,
  state = 6,
  state_gradient = 7
};

/// Messages under way. What they read or write must stay until wait().
class Messages {
 public:
  explicit Messages(Communicator& communicator) : communicator_(communicator) {}
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;
  /// In an exception nothing is awaited: guarded() then ends the job.
  ~Messages() {
    if (std::uncaught_exceptions() == exceptions_) wait();
  }

  template <class T>
  void send(Index to, Tag tag, const T* data, std::size_t count) {
    communicator_.count_message(count * sizeof(T));
    in_parts(count * sizeof(T), [&](std::size_t begin, int bytes, MPI_Request* request) {
      MPI_Isend(reinterpret_cast<const char*>(data) + begin, bytes, MPI_BYTE, static_cast<int>(to),
                static_cast<int>(tag), communicator_.handle(), request);
    });
  }
  template <class T>
  void receive(Index from, Tag tag, T* data, std::size_t count) {
    in_parts(count * sizeof(T), [&](std::size_t begin, int bytes, MPI_Request* request) {
      MPI_Irecv(reinterpret_cast<char*>(data) + begin, bytes, MPI_BYTE, static_cast<int>(from), static_cast<int>(tag),
                communicator_.handle(), request);
    });
  }
  void wait() {
    MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
    requests_.clear();
  }

 private:
  /// MPI counts in int.
  template <class Start>
  void in_parts(std::size_t bytes, const Start& start) {
    constexpr std::size_t most = std::size_t(1) << 30;
    for (std::size_t begin = 0; begin < bytes; begin += most) {
      requests_.push_back(MPI_REQUEST_NULL);
      start(begin, static_cast<int>((std::min)(most, bytes - begin)), &requests_.back());
    }
  }

  Communicator& communicator_;
  std::vector<MPI_Request> requests_;
  const int exceptions_ = std::uncaught_exceptions();
};

}  // namespace detail

template <class Body>
int run(int& argc, char**& argv, const Body& body) {
  MPI_Init(&argc, &argv);
  int result = 0;
  {
    Communicator communicator(MPI_COMM_WORLD);
    result = detail::guarded(communicator, "mpi::run", [&] { return body(communicator); });
  }
  MPI_Finalize();
  return result;
}

}  // namespace gma::mpi
