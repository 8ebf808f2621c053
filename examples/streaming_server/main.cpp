// SPDX-License-Identifier: MIT
// How do I serve the streams of many clients from one layer?
//
// The layer is compiled once and shared. A client is only a LayerState, whose size does not depend on how much the
// client has sent. All waiting requests go through the layer in one pass. A client's state may be saved to a file;
// after loading it the client continues with the same bits. At the end, a client's draft is taken back.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <gma/gma.hpp>
#include <gma/io/write_file.hpp>
#include <iostream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

using gma::Index;
using Matrix = gma::Matrix<float>;
using State = gma::LayerState<float>;

struct Request {
  int client;
  Matrix tokens;  // the next tokens of the client's stream, one per row
};

class Server {
 public:
  Server(const gma::CompiledLayer<float>& layer, const std::filesystem::path& folder)
      : layer_(layer), folder_(folder) {}

  /// The outputs of the requests, one below the other. Each request must belong to a different client.
  Matrix serve(const std::vector<Request>& requests) {
    std::vector<std::int64_t> offsets{0};
    for (const Request& request : requests) offsets.push_back(offsets.back() + request.tokens.rows());
    Matrix x(offsets.back(), layer_.config.width), y(x.rows(), x.cols());
    std::vector<State*> batch;  // if the pass throws, the states are unchanged
    for (std::size_t i = 0; i < requests.size(); ++i) {
      x.middleRows(offsets[i], requests[i].tokens.rows()) = requests[i].tokens;
      batch.push_back(&state_of(requests[i].client));
    }
    gma::forward_into(y, layer_, x, batch, cache_, gma::Sequences::packed(offsets));
    return y;
  }

  /// Saves a client's state to its file until the client sends again. If the program dies meanwhile, the file has a
  /// complete state, the old one or the new one.
  void evict(int client) {
    const std::map<int, State>::iterator found = states_.find(client);
    if (found == states_.end()) return;
    std::ostringstream bytes;
    gma::save(found->second, bytes);
    gma::io::write_file(path_of(client), bytes.str());
    states_.erase(found);
  }

  std::size_t loads() const { return loads_; }

 private:
  std::string path_of(int client) const { return (folder_ / std::to_string(client)).string(); }

  /// The state, from memory, from the client's file, or new.
  State& state_of(int client) {
    const std::map<int, State>::iterator found = states_.find(client);
    if (found != states_.end()) return found->second;
    State state = gma::begin_stream(layer_);
    std::ifstream file(path_of(client), std::ios::binary);
    if (file) {
      gma::load(state, file);  // throws if the file is damaged or the layer has other shapes
      ++loads_;
    }
    return states_[client] = std::move(state);
  }

  const gma::CompiledLayer<float>& layer_;
  std::filesystem::path folder_;
  std::map<int, State> states_;
  gma::LayerCache<float> cache_;  // one per serving thread
  std::size_t loads_ = 0;
};

int main() {
  gma::LayerConfig config;
  config.width = 32;
  config.heads = 4;
  const gma::CompiledLayer<float> layer = gma::compile(gma::random_layer<float>(config, 1));
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("gma_streaming_server" + std::to_string(std::random_device()()));
  std::filesystem::create_directories(folder);
  Server server(layer, folder);

  // In every round some of 8 clients send 1 to 6 tokens, in any order, and the state of one client is saved to a file.
  // Each client is also served alone, from a second state, to compare with.
  const int clients = 8, rounds = 200;
  std::vector<State> alone(clients, gma::begin_stream(layer));
  const std::size_t size = gma::bytes(alone.front());
  std::mt19937 random(1);
  bool same = true, same_size = true;
  for (int round = 0; round < rounds; ++round) {
    std::vector<Request> requests;
    for (int client = 0; client < clients; ++client) {
      const Index tokens = static_cast<Index>(1 + random() % 6);
      if (random() % 3 == 0) requests.push_back({client, Matrix::Random(tokens, config.width)});
    }
    std::shuffle(requests.begin(), requests.end(), random);
    const Matrix y = server.serve(requests);
    Index row = 0;
    for (const Request& request : requests) {
      State& state = alone[static_cast<std::size_t>(request.client)];
      const Matrix expected = gma::forward(layer, request.tokens, state);
      same = same && y.middleRows(row, expected.rows()) == expected;
      same_size = same_size && gma::bytes(state) == size;
      row += expected.rows();
    }
    server.evict(static_cast<int>(random() % clients));
  }
  std::filesystem::remove_all(folder);

  // A client's draft of 4 tokens, of which the first is accepted: record before each token, then take back the rejected
  // ones.
  State state = alone.front(), accepted = state;
  const Matrix draft = Matrix::Random(4, config.width), next = Matrix::Random(1, config.width);
  gma::Rollback<State> rollback(draft.rows());
  for (Index t = 0; t < draft.rows(); ++t) {
    rollback.record(state);
    gma::step(layer, draft.row(t), state);
  }
  rollback.rewind(state, draft.rows() - 1);
  gma::step(layer, draft.row(0), accepted);
  const bool same_draft = gma::step(layer, next, state) == gma::step(layer, next, accepted);

  std::cout << std::boolalpha << "Served " << clients << " clients in " << rounds << " passes. States were loaded from "
            << "files " << server.loads() << " times. The first client has sent " << alone.front().position
            << " tokens.\n"
            << "  outputs bit-identical to those of a client alone:        " << same << '\n'
            << "  states take " << size << " bytes after every request:             " << same_size << '\n'
            << "  bit-identical after a rejected draft is taken back:      " << same_draft << '\n';
  return same && same_size && same_draft && server.loads() > 0 ? 0 : 1;
}
