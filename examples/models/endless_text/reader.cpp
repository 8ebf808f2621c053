// SPDX-License-Identifier: MIT

#include "reader.hpp"

#include <sys/resource.h>

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

#include "pipeline.hpp"
#include "saved_state.hpp"
#include "transformer/config_json.hpp"
#include "transformer/progress.hpp"

namespace endless_text {

namespace {

namespace lm = language_model;
using lm::Checkpoint;

void check(const Checkpoint& checkpoint, const ReadOptions& options) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  const lm::MixerKind mixer = checkpoint.model.mixer;
  if (mixer == lm::MixerKind::sdpa || mixer == lm::MixerKind::window)
    fail(std::string("the mixer of the model is ") + lm::name_of(mixer) +
         ", which keeps more for a longer text; expected gma, gma-plain, linear, performer, mamba or delta");
  if (!checkpoint.vocabulary.is_bytes()) fail("the model reads pieces of a vocabulary, expected one that reads bytes");
  if (options.chunk < 1) fail("the chunk is " + std::to_string(options.chunk) + " bytes, expected at least 1");
  if (options.begin < 0) fail("the text begins at byte " + std::to_string(options.begin) + ", expected 0 or more");
  if (options.bytes < -1 || options.bytes == 0) fail("bytes must be positive");
  if (!(options.save_every >= 0)) fail("the seconds between two states must be 0 or more");
  if (options.is_feed && options.begin > 0) fail("a feed has no beginning to leave out");
}

std::uint64_t fingerprint_of(const Checkpoint& checkpoint) {
  Fingerprint fingerprint;
  const std::string config = nlohmann::json(checkpoint.model).dump();
  fingerprint.add(config.data(), config.size());
  const auto& parameters = checkpoint.state.parameters;
  fingerprint.add(parameters.data(), std::size_t(parameters.size()) * sizeof(float));
  return fingerprint.value();
}

class Reader {
 public:
  Reader(const Checkpoint& checkpoint, const ByteSource& source, const ReadOptions& options)
      : options_(options),
        source_(source),
        model_(checkpoint.model),
        pool_(options.threads),
        pipeline_(model_, checkpoint.state.parameters, state_.memory, pool_,
                  [this](const Vector<float>& losses) { add(losses); }),
        progress_(options.is_quiet) {
    model_.prepare(checkpoint.state.parameters);
    state_.model = fingerprint_of(checkpoint);
    state_.memory = model_.make_state();
  }

  ReadResult run() {
    const transformer::InterruptionGuard guard;
    start();
    seconds_before_ = state_.seconds;
    bytes_before_ = state_.bytes_read;
    watch_.restart();
    saved_.restart();
    bool is_complete = false;
    while (!is_complete && !transformer::is_interrupted()) {
      is_complete = !fill_or_save() && !transformer::is_interrupted();
      if (std::int64_t(state_.pending.size()) == options_.chunk + 1) push();
      if (saved_.seconds() >= options_.save_every) save();
      if (progress_.is_due()) progress_.show(line());
    }
    save();
    if (is_complete) push();  // the rest, shorter than a chunk: not in the saved state, since more text may come
    pipeline_.drain();
    take_time();
    progress_.finish(line());
    return {is_complete,
            state_.losses,
            state_.seconds,
            watch_.seconds(),
            state_.bytes_read - bytes_before_,
            peak_resident_bytes(),
            state_.memory.bytes(),
            pool_.size()};
  }

 private:
  // From the saved state, if there is one, and to its place in the text.
  void start() {
    state_.begin = options_.begin;
    state_.chunk = options_.chunk;
    std::int64_t skip = options_.begin;
    const bool goes_on = !options_.state.empty() && std::filesystem::exists(options_.state);
    if (goes_on) {
      load_state(options_.state, state_);
      if (state_.chunk != options_.chunk) refuse("was read in chunks of " + std::to_string(state_.chunk) + " bytes");
      if (state_.begin != options_.begin) refuse("began at byte " + std::to_string(state_.begin) + " of the text");
      if (end() < state_.bytes_read) refuse("is longer than the bytes asked for");
      if (options_.is_feed) return;
      skip = state_.bytes_read;
    }
    const std::uint64_t saved_text = state_.text.value();
    pass_over(skip);
    if (goes_on && state_.text.value() != saved_text)
      refuse("is of another text: the first " + std::to_string(skip) + " bytes differ");
  }

  // From the start of the text.
  void pass_over(std::int64_t count) {
    state_.text = Fingerprint();
    state_.bytes_read = 0;
    std::vector<char> bytes(std::size_t(1) << 16);
    while (state_.bytes_read < count) {
      if (read(bytes.data(), (std::min)(std::int64_t(bytes.size()), count - state_.bytes_read)) > 0) continue;
      if (transformer::is_interrupted()) throw std::runtime_error("interrupted before the stream went on");
      throw std::runtime_error("the text has " + std::to_string(state_.bytes_read) + " bytes, expected more than the " +
                               std::to_string(count) + " before the stream");
    }
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw std::runtime_error("the stream in " + options_.state + " " + what);
  }

  // Where the stream ends at the latest.
  std::int64_t end() const {
    return options_.bytes < 0 ? std::numeric_limits<std::int64_t>::max() : options_.begin + options_.bytes;
  }

  std::int64_t read(char* to, std::int64_t most) {
    const auto count = source_(to, std::size_t(most));
    state_.text.add(to, count);
    state_.bytes_read += std::int64_t(count);
    return std::int64_t(count);
  }

  // fill(). If the source fails, what was read before is saved.
  bool fill_or_save() {
    try {
      return fill();
    } catch (...) {
      save();
      throw;
    }
  }

  // Reads until a chunk and the byte after it are pending. False: the text ended before.
  bool fill() {
    while (std::int64_t(state_.pending.size()) < options_.chunk + 1) {
      const std::int64_t has = std::int64_t(state_.pending.size());
      const std::int64_t most = (std::min)(options_.chunk + 1 - has, end() - state_.bytes_read);
      if (most == 0) return false;
      state_.pending.resize(std::size_t(has + most));
      std::int64_t count = 0;
      try {
        count = read(state_.pending.data() + has, most);
      } catch (...) {
        state_.pending.resize(std::size_t(has));
        throw;
      }
      state_.pending.resize(std::size_t(has + count));
      if (count == 0) return false;
    }
    return true;
  }

  // All that is pending, except its last byte, through the model.
  void push() {
    const std::string& bytes = state_.pending;
    if (bytes.size() < 2) return;
    tokens_.clear();
    for (const char c : bytes) tokens_.push_back(Token(static_cast<unsigned char>(c)));
    pipeline_.push(tokens_.data(), Index(tokens_.size()) - 1);
    state_.pending.erase(0, bytes.size() - 1);
  }

  void add(const Vector<float>& losses) {
    for (Index i = 0; i < losses.size(); ++i) state_.losses.add(double(losses[i]));
    take_time();
  }

  void take_time() {
    state_.seconds = seconds_before_ + watch_.seconds();
    state_.losses.set_cost({state_.seconds, peak_resident_bytes()});
  }

  void save() {
    if (!options_.state.empty()) {
      pipeline_.drain();
      save_state(options_.state, state_);
    }
    saved_.restart();
  }

  std::string line() const {
    using transformer::format;
    const double done = double(state_.bytes_read - state_.begin), seconds = watch_.seconds();
    const double rate = seconds > 0 ? double(state_.bytes_read - bytes_before_) / seconds : 0;
    const std::int64_t last = options_.text_bytes < 0 ? end() : (std::min)(end(), options_.text_bytes);
    std::string text;
    if (last != std::numeric_limits<std::int64_t>::max() && last > state_.begin) {
      const double all = double(last - state_.begin);
      const int width = 20, filled = int(width * (std::min)(1.0, done / all));
      text = "[" + std::string(std::size_t(filled), '=') + std::string(std::size_t(width - filled), ' ') + "] " +
             format("%.1f of %.1f MB", done * 1e-6, all * 1e-6);
      if (rate > 0 && done < all) text += "  " + transformer::minutes((all - done) / rate) + " left";
    } else {
      text = format("%.1f MB", done * 1e-6);
    }
    const Span& total = state_.losses.total();
    if (total.bytes > 0) text += format("  %.3f bits/byte", total.bits_per_byte());
    return text + format("  %.0f kB/s  %.1f MB resident at most", rate * 1e-3, double(peak_resident_bytes()) * 1e-6);
  }

  ReadOptions options_;
  const ByteSource& source_;
  lm::Model<float> model_;
  StreamState state_;
  transformer::ThreadPool pool_;
  Pipeline pipeline_;
  transformer::Progress progress_;
  transformer::Stopwatch watch_, saved_;
  double seconds_before_ = 0;
  std::int64_t bytes_before_ = 0;
  std::vector<Token> tokens_;
};

}  // namespace

std::int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return std::int64_t(usage.ru_maxrss);
#else
  return std::int64_t(usage.ru_maxrss) * 1024;
#endif
}

ReadResult read_text(const Checkpoint& checkpoint, const ByteSource& source, const ReadOptions& options) {
  check(checkpoint, options);
  return Reader(checkpoint, source, options).run();
}

}  // namespace endless_text
