// SPDX-License-Identifier: MIT
//
// Runs: the same numbers for any number of threads and after a resume, checkpoints, sampling, the counting models, and
// what a comparison of runs is made of: the parts of the text, positions, the choice of the rate, statistics.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "../baselines.hpp"
#include "../sampler.hpp"
#include "../training_run.hpp"
#include "transformer/comparison.hpp"
#include "transformer/quoting.hpp"
#include "transformer/tests/check_gradients.hpp"
#include "transformer/write_file.hpp"

namespace language_model {
namespace {

Text small_text() {
  const std::string words[] = {"and ", "the ", "light ", "was ", "good, ", "evening ", "morning.\n"};
  std::string text;
  Random random(1);
  while (text.size() < 6000) text += words[random.below(7)];
  return split_text({{"words", text}}, 32);
}

ModelConfig small_model(MixerKind mixer = MixerKind::gma) {
  ModelConfig config;
  config.mixer = mixer;
  config.layers = 2;
  config.width = 16;
  config.heads = 2;
  config.mlp_width = 24;
  config.components = {4, 4};
  return config;
}

TrainConfig small_training(std::int64_t steps) {
  TrainConfig config;
  config.steps = steps;
  config.batch = 6;
  config.context = 32;
  config.shards = 3;
  config.warmup_steps = 2;
  config.learning_rate = 0.01;
  return config;
}

RunOptions quietly(std::int64_t stop_after = 0, const std::string& checkpoint = "") {
  RunOptions options;
  options.is_quiet = true;
  options.stop_after = stop_after;
  options.checkpoint = checkpoint;
  return options;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "language_model_test.XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

TEST(Training, LossFalls) {
  const Text text = small_text();
  ThreadPool pool(2);
  TrainingRun run(small_model(), small_training(60), text, pool, quietly());
  const RunResult result = run.train();
  EXPECT_GT(run.losses().front(), 7.0);
  EXPECT_LT(result.windowed, 3.5);
  EXPECT_LT(result.streamed, 3.5);
}

TEST(Training, ThreadsDoNotChangeTheNumbers) {
  const Text text = small_text();
  std::vector<std::vector<double>> losses;
  std::vector<double> windowed;
  for (const Index threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    TrainingRun run(small_model(), small_training(4), text, pool, quietly());
    windowed.push_back(run.train().windowed);
    losses.push_back(run.losses());
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_EQ(losses[0], losses[2]);
  EXPECT_EQ(windowed[0], windowed[1]);
  EXPECT_EQ(windowed[0], windowed[2]);
}

TEST(Training, ResumeEqualsUninterrupted) {
  const Text text = small_text();
  const TemporaryDirectory directory;
  ThreadPool pool(2);
  for (const MixerKind mixer : {MixerKind::gma, MixerKind::sdpa}) {
    TrainingRun whole(small_model(mixer), small_training(6), text, pool, quietly());
    const RunResult expected = whole.train();

    TrainingRun first(small_model(mixer), small_training(6), text, pool, quietly(4, directory.file("a")));
    first.train();
    const Checkpoint checkpoint = load_checkpoint(directory.file("a"));
    TrainingRun second(checkpoint.model, checkpoint.train, text, pool, quietly());
    second.restore(checkpoint);
    const RunResult actual = second.train();

    EXPECT_EQ(actual.steps, 6);
    EXPECT_EQ(actual.windowed, expected.windowed);
    std::vector<double> losses = first.losses();
    losses.insert(losses.end(), second.losses().begin(), second.losses().end());
    EXPECT_EQ(losses, whole.losses());
  }
}

TEST(Checkpoints, DamageIsReported) {
  const Text text = small_text();
  const TemporaryDirectory directory;
  ThreadPool pool(1);
  const std::string good = directory.file("good"), bad = directory.file("bad");
  TrainingRun run(small_model(), small_training(1), text, pool, quietly(0, good));
  run.train();
  EXPECT_FALSE(std::filesystem::exists(good + ".new"));
  EXPECT_NO_THROW(load_checkpoint(good));

  EXPECT_THROW(load_checkpoint(directory.file("none")), std::runtime_error);
  std::ofstream(bad) << "something else entirely";
  EXPECT_THROW(load_checkpoint(bad), std::runtime_error);
  for (const std::uintmax_t size : {std::uintmax_t(10), std::uintmax_t(200), std::filesystem::file_size(good) - 1}) {
    std::filesystem::copy_file(good, bad, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(bad, size);
    EXPECT_THROW(load_checkpoint(bad), std::runtime_error) << size;
  }
  std::filesystem::copy_file(good, bad, std::filesystem::copy_options::overwrite_existing);
  std::ofstream(bad, std::ios::app) << "more";
  EXPECT_THROW(load_checkpoint(bad), std::runtime_error);

  const Text other = split_text({{"other", std::string(5000, 'x')}}, 32);
  const Checkpoint checkpoint = load_checkpoint(good);
  TrainingRun resumed(checkpoint.model, checkpoint.train, other, pool, quietly());
  EXPECT_THROW(resumed.restore(checkpoint), std::runtime_error);
}

using Shapes = std::map<std::string, std::vector<Index>>;

// What README.md lists, for two blocks, width D = 16, 2 heads, F = 24, 4 x 4 components and 4 taps.
Shapes shapes_of_two_blocks() {
  Shapes shapes = {{"embedding.weight", {256, 16}}, {"norm_output.gain", {16}}};
  for (const std::string block : {"blocks.0.", "blocks.1."}) {
    const Shapes of_block = {
        {"norm_mixer.gain", {16}},        {"norm_mlp.gain", {16}},          {"mlp.expand.weight", {48, 16}},
        {"mlp.down.weight", {16, 24}},    {"mixer.query.weight", {16, 16}}, {"mixer.key.weight", {16, 16}},
        {"mixer.value.weight", {16, 16}}, {"mixer.query.filter", {16, 4}},  {"mixer.key.filter", {16, 4}},
        {"mixer.value.filter", {16, 4}},  {"mixer.forget.weight", {2, 16}}, {"mixer.forget.bias", {2}},
        {"mixer.forget.rate", {2}},       {"mixer.norm.gain", {16}},        {"mixer.gate.weight", {16, 16}},
        {"mixer.output.weight", {16, 16}}};
    for (const auto& [name, shape] : of_block) shapes[block + name] = shape;
    for (const std::string factor : {"0.factors.0.", "0.factors.1.", "1.factors.0.", "1.factors.1."}) {
      const std::string mixture = block + "mixer.mixtures." + factor;
      shapes[mixture + "weight_logits"] = {4};
      shapes[mixture + "means"] = shapes[mixture + "log_scales"] = {4, 4};
      shapes[mixture + "log_temperature"] = {};
    }
  }
  return shapes;
}

// A trained checkpoint in `path`.
gma::io::SafeTensors trained_file(const std::string& path) {
  const Text text = small_text();
  ThreadPool pool(1);
  TrainingRun(small_model(), small_training(2), text, pool, quietly(0, path)).train();
  return gma::io::read_safetensors(path);
}

// The same file without what only training needs.
gma::io::SafeTensors parameters_of(gma::io::SafeTensors file) {
  for (const auto& [name, shape] : shapes_of_two_blocks()) {
    file.tensors.erase("moments.first." + name);
    file.tensors.erase("moments.second." + name);
  }
  file.metadata = {{"config", file.metadata.at("config")}};
  return file;
}

template <class Call>
void expect_error(const Call& call, const std::string& words) {
  try {
    call();
    ADD_FAILURE() << "no exception; expected one that says " << words;
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what() << " lacks " << words;
  }
}

TEST(Checkpoints, NamesAndShapesAreThoseOfTheReadme) {
  const TemporaryDirectory directory;
  const gma::io::SafeTensors file = trained_file(directory.file("a"));
  EXPECT_EQ(file.metadata.at("format"), "pt");
  EXPECT_EQ(nlohmann::json::parse(file.metadata.at("config")).at("mlp_width"), 24);
  std::size_t tensors = 0;
  for (const auto& [name, shape] : shapes_of_two_blocks()) {
    for (const std::string prefix : {"", "moments.first.", "moments.second."}) {
      ASSERT_EQ(file.tensors.count(prefix + name), 1u) << prefix + name;
      EXPECT_EQ(file.tensors.at(prefix + name).shape, shape) << prefix + name;
      ++tensors;
    }
  }
  EXPECT_EQ(file.tensors.size(), tensors);
}

// In files, dense layers are [out, in], and the gate's rows of `expand` come first.
TEST(Checkpoints, WeightsAreTransposedInFiles) {
  const TemporaryDirectory directory;
  const gma::io::SafeTensors file = trained_file(directory.file("a"));
  const Checkpoint checkpoint = load_checkpoint(directory.file("a"));
  const Layout layout = layout_of(checkpoint.model);
  for (const auto& entry : layout.entries()) {
    const Matrix<float> inside = view(checkpoint.state.parameters, entry.tensor),
                        outside = file.tensors.at(entry.name).matrix<float>();
    if (entry.name == "blocks.1.mlp.expand.weight") {
      EXPECT_EQ(inside.transpose(), outside);
    } else if (entry.name == "embedding.weight" || entry.name == "blocks.0.mixer.query.weight") {
      EXPECT_EQ(inside, outside);
    }
  }
}

TEST(Checkpoints, AFileOfParametersIsAModelAndNoTraining) {
  const TemporaryDirectory directory;
  const std::string path = directory.file("parameters");
  const gma::io::SafeTensors whole = trained_file(directory.file("a"));
  gma::io::SafeTensors file = parameters_of(whole);
  EXPECT_EQ(file.tensors.size(), shapes_of_two_blocks().size());
  for (auto& [name, tensor] : file.tensors) {  // as another program may write it
    tensor = gma::io::make_tensor(tensor.matrix<double>(), tensor.shape);
    if (name.substr(name.rfind('.')) == ".filter") tensor.shape.insert(tensor.shape.begin() + 1, 1);
  }
  gma::io::write_safetensors(path, file);
  const Checkpoint a = load_checkpoint(directory.file("a")), b = load_checkpoint(path);
  EXPECT_TRUE(a.is_resumable);
  EXPECT_FALSE(b.is_resumable);
  EXPECT_EQ(a.state.parameters, b.state.parameters);
  EXPECT_EQ(b.train.context, TrainConfig().context);
  EXPECT_NO_THROW(load_resumable_checkpoint(directory.file("a")));
  expect_error([&] { load_resumable_checkpoint(path); }, path + " has the parameters of a model and not the state");

  const auto expect_refused = [&](const gma::io::SafeTensors& changed, const std::string& words) {
    gma::io::write_safetensors(path, changed);
    expect_error([&] { load_checkpoint(path); }, words);
  };
  gma::io::SafeTensors changed = file;
  changed.tensors.erase("norm_output.gain");
  expect_refused(changed, "lacks the tensor norm_output.gain [16]");
  changed = file;
  changed.tensors["other"] = changed.tensors["norm_output.gain"];
  expect_refused(changed, "has the tensor other, which is no part of the model");
  changed = file;
  changed.tensors["blocks.0.mlp.down.weight"].shape = {24, 16};
  expect_refused(changed, "blocks.0.mlp.down.weight [24,16], expected [16,24]");
  changed = file;
  changed.tensors["norm_output.gain"] = gma::io::make_tensor(Vector<float>::Constant(16, NAN).eval());
  expect_refused(changed, "in which a number is not finite");
  changed = file;
  changed.metadata["config"] = R"({"width": 17, "heads": 2})";
  expect_refused(changed, "must be a multiple of heads");
  changed = file;
  changed.metadata["config"] = R"({"mixer": "lstm"})";
  expect_refused(changed, "impossible config: mixer is \"lstm\"");
  changed.metadata["config"] = R"({"layer": 3})";
  expect_refused(changed, "impossible config: layer is 3");
  changed.metadata["config"] = R"({"vocabulary": 300})";
  expect_refused(changed, "a model of 300 tokens and a vocabulary of 256");
  changed.metadata.clear();
  expect_refused(changed, "its metadata lacks config");
  changed = file;
  changed.metadata["gma_format"] = "gma attention layer 1";
  expect_refused(changed, "holds a \"gma attention layer 1\"");
  changed = whole;
  changed.tensors.erase("moments.second.norm_output.gain");
  expect_refused(changed, "lacks the tensor moments.second.norm_output.gain");
  std::ofstream(path, std::ios::binary) << std::string("GMALM\0\0\0\2\0\0\0", 12);
  expect_error([&] { load_checkpoint(path); }, "was written by an earlier version of this program");
}

TEST(Files, AreMadeUnderAnyName) {
  const TemporaryDirectory directory;
  const std::filesystem::path folder = directory.file("it's \"a\" $HOME `dir`; \\ *");
  transformer::write_file(folder / "first", std::string("text"));
  const std::string command = "cd -- " + transformer::shell_word(folder.string()) + " && cp first second";
  EXPECT_EQ(std::system(command.c_str()), 0);
  EXPECT_EQ(std::filesystem::file_size(folder / "second"), 4u);
  EXPECT_EQ(transformer::gnuplot_string("it's"), "'it''s'");
  std::filesystem::create_symlink("first", folder / "link");
  transformer::write_file(folder / "link", "1234567");
  EXPECT_EQ(std::filesystem::file_size(folder / "first"), 7u);
}

TEST(Sampling, SeedsTemperatureAndTopK) {
  for (const MixerKind mixer : {MixerKind::gma, MixerKind::sdpa}) {
    Model<float> model(small_model(mixer));
    const Vector<float> parameters = model.initial_parameters(1);
    model.prepare(parameters);
    const auto sample = [&](const SamplingOptions& options) {
      Sampler<float> sampler(model, parameters, Vocabulary(), 32, options);
      sampler.read("In the beginning");
      return sampler.generate(100);
    };
    SamplingOptions options;
    const std::string text = sample(options);
    EXPECT_EQ(text.size(), 100u);
    EXPECT_EQ(text, sample(options));
    options.seed = 2;
    EXPECT_NE(text, sample(options));
    options.top_k = 1;
    const std::string greedy = sample(options);
    options.top_k = 0;
    options.temperature = 0;
    EXPECT_EQ(greedy, sample(options));
  }
}

TEST(Evaluation, ByPositionIsTheMeanOfTheLosses) {
  const Text text = small_text();
  ThreadPool pool(2);
  Model<float> model(small_model());
  const Vector<float> parameters = model.initial_parameters(4);
  model.prepare(parameters);
  Evaluator<float> evaluator(model, text, 32, pool);
  const auto bins = evaluator.by_position(parameters, text.whole_held_out(), 200, 2);
  ASSERT_EQ(bins.size(), 3u);
  EXPECT_EQ(bins[2].begin, 128);
  EXPECT_EQ(bins[2].end, 200);
  auto cache = model.make_cache();
  double expected = 0;
  for (const Index first : {text.split, text.size() - 201}) {
    model.forward(parameters, text.data() + first, 200, nullptr, cache);
    model.losses(text.data() + first + 1, cache);
    expected += 0.5 * double(cache.losses.tail(72).mean());
  }
  EXPECT_NEAR(bins[2].loss, expected, 1e-5);
  EXPECT_TRUE(evaluator.by_position(parameters, text.whole_held_out(), text.held_out(), 2).empty());
}

TEST(Sampling, DrawsFromTheSoftmax) {
  Vector<float> logits = Vector<float>::Constant(4, -1e4f);
  logits[1] = std::log(3.0f);
  logits[2] = 0;
  Random random(1);
  SamplingOptions options;
  options.temperature = 1;
  int ones = 0;
  for (int i = 0; i < 4000; ++i) {
    const int byte = draw(logits, options, random);
    ASSERT_TRUE(byte == 1 || byte == 2);
    ones += byte == 1;
  }
  EXPECT_NEAR(ones / 4000.0, 0.75, 0.03);
}

TEST(Counting, WittenBellByHand) {
  // Training text "aab": N(a) = 2 of 3, N(b) = 1 of 3, two different bytes; after a: a and b once each.
  const Token text[] = {'a', 'a', 'b', 'a'};
  const Ngrams ngrams(text, 3, 2);
  const double unigram = (2 + 2.0 / 256) / (3 + 2), bigram_after_b = unigram;  // nothing was seen after b
  const std::vector<double> bits = ngrams.bits_per_byte(text, 3, 4);
  EXPECT_NEAR(bits[0], -std::log2(unigram), 1e-12);
  EXPECT_NEAR(bits[1], -std::log2(bigram_after_b), 1e-12);
  const double after_a = (1 + 2 * unigram) / (2 + 2);
  EXPECT_NEAR(ngrams.bits_per_byte(text, 1, 2)[1], -std::log2(after_a), 1e-12);
}

TEST(Counting, KingJamesBible) {
  Text text;
  try {
    text = load_text({"kjv"}, 256);
  } catch (const std::runtime_error& error) {
    GTEST_SKIP() << error.what();
  }
  EXPECT_EQ(text.size(), 4298239);
  const Ngrams ngrams(text.data(), text.split, 5);
  const std::vector<double> bits = ngrams.bits_per_byte(text.data(), text.split, text.size());
  EXPECT_NEAR(bits[2], 2.69, 0.02);
  EXPECT_NEAR(bits[4], 1.98, 0.02);
}

TEST(Texts, OfSeveralSourcesTheEndOfEachIsHeldOut) {
  const Text text = split_text({{"a", std::string(1000, 'a')}, {"b", std::string(500, 'b')}}, 32);
  EXPECT_EQ(text.name, "a and b");
  EXPECT_EQ(text.split, 1350);
  ASSERT_EQ(text.size(), 1500);
  EXPECT_EQ(text.held_out_bytes, 150);
  EXPECT_EQ(text.bytes_per_token(), 1);
  const auto count = [&](Index begin, Index end, Token token) {
    return std::count(text.tokens.begin() + begin, text.tokens.begin() + end, token);
  };
  EXPECT_EQ(count(0, 1350, 'a'), 900);
  EXPECT_EQ(count(1350, 1500, 'a'), 100);
  EXPECT_EQ(count(1350, 1500, 'b'), 50);
}

TEST(Texts, PiecesAreLossless) {
  std::string words;
  Random random(3);
  for (int i = 0; i < 2000; ++i)
    words += std::vector<std::string>{"and ", "the  light", "\n\n", "gr\xC3\xBC\xC3\x9F", "42"}[random.below(5)];
  Vocabulary vocabulary;
  try {
    vocabulary = Vocabulary::train(words, 300);
  } catch (const std::runtime_error& error) {
    GTEST_SKIP() << error.what();
  }
  const std::string other = " The \xE2\x82\xAC and\tlight <0x41> \n";
  for (const std::string& text : {words, other}) {
    std::string decoded;
    const std::vector<Token> tokens = vocabulary.encode(text);
    for (const Token token : tokens) decoded += vocabulary.decode(token);
    EXPECT_EQ(decoded, text);
    EXPECT_EQ(Vocabulary::deserialize(vocabulary.serialized()).encode(text), tokens);
  }
  EXPECT_LT(vocabulary.encode(words).size(), words.size() / 2);
  EXPECT_THROW(vocabulary.encode("\xFF\xFE"), std::invalid_argument);
}

TEST(Texts, ErrorsSayWhatToDo) {
  EXPECT_THROW(load_text({"/nonexistent/file"}, 32), std::runtime_error);
  EXPECT_THROW(split_text({{"short", std::string(100, 'x')}}, 32), std::invalid_argument);
}

TEST(Texts, TheHalvesOfEachHeldOutPartAreForValidationAndTest) {
  const auto tenths = [](char training, char validation, char test) {
    return std::string(900, training) + std::string(50, validation) + std::string(50, test);
  };
  const Text text = split_text({{"a", tenths('a', 'b', 'c')}, {"d", tenths('d', 'e', 'f')}}, 32);
  const auto spelled = [&](Index begin, Index end) {
    return std::string(text.tokens.begin() + begin, text.tokens.begin() + end);
  };
  const Part validation = text.validation(), test = text.test();
  EXPECT_EQ(spelled(0, text.split), std::string(900, 'a') + std::string(900, 'd'));
  EXPECT_EQ(spelled(validation.begin, validation.end), std::string(50, 'b') + std::string(50, 'e'));
  EXPECT_EQ(spelled(test.begin, test.end), std::string(50, 'c') + std::string(50, 'f'));
  EXPECT_EQ(validation.begin, text.split);
  EXPECT_EQ(validation.end, test.begin);
  EXPECT_EQ(test.end, text.size());
  EXPECT_EQ(test.bytes_per_token, 1);
}

TEST(Texts, TheHeldOutPartIsNotCutInsideACharacter) {
  std::string bytes(901, 'x');
  for (int i = 0; i < 50; ++i) bytes += "\xC3\x9F";  // the middle of these is inside one
  const Text text = split_text({{"a", bytes}}, 32);
  EXPECT_EQ(text.split, 901);
  EXPECT_EQ(text.test_split, 951);
  EXPECT_EQ(text.tokens[951], 0xC3);
}

TEST(Evaluation, PartsTogetherAreTheHeldOutText) {
  const Text text = small_text();
  ThreadPool pool(2);
  Model<float> model(small_model());
  const Vector<float> parameters = model.initial_parameters(4);
  model.prepare(parameters);
  Evaluator<float> evaluator(model, text, 32, pool);
  const std::vector<WindowLoss> windows = evaluator.windows(parameters, text.test());
  EXPECT_EQ(Index(windows.size()), evaluator.windows_in(text.test()));
  auto cache = model.make_cache();
  // The second window predicts 24 tokens of the 32 that it has.
  const Index second = text.test_split + 24;
  model.forward(parameters, text.data() + second - 9, 32, nullptr, cache);
  model.losses(text.data() + second - 8, cache);
  EXPECT_EQ(windows[1].tokens, 24);
  EXPECT_NEAR(windows[1].nats, double(cache.losses.tail(24).sum()), 1e-4);
  Index tokens = 0;
  for (const WindowLoss& window : windows) tokens += window.tokens;
  EXPECT_EQ(tokens, text.test().size());
  EXPECT_NEAR(evaluator.windowed(parameters, text.test()), bits_per_nat * mean_loss(windows), 1e-12);
}

TEST(Training, ValidatesWithTheValidationHalfOnlyIfTheTestIsApart) {
  const Text text = small_text();
  Text other = text;  // with another test
  for (Index i = text.test_split; i < text.size(); ++i) other.tokens[std::size_t(i)] = 'q';
  ThreadPool pool(2);
  RunOptions options = quietly();
  const auto result = [&](const Text& of) {
    return TrainingRun(small_model(), small_training(3), of, pool, options).train();
  };
  EXPECT_NE(result(text).windowed, result(other).windowed);
  options.is_test_apart = true;
  const RunResult a = result(text), b = result(other);
  EXPECT_EQ(a.windowed, b.windowed);
  ASSERT_FALSE(a.curve.empty());
  for (std::size_t i = 0; i < a.curve.size(); ++i) EXPECT_EQ(a.curve[i].validation, b.curve[i].validation);
  EXPECT_EQ(a.streamed, 0);
}

ModelConfig model_with_positions() {
  ModelConfig config = small_model(MixerKind::gma_plain);
  config.plain_components = 5;
  config.has_positions = true;
  return config;
}

TEST(Positions, Gradients) {
  Layout layout;
  transformer::Blocks<double> blocks(model_with_positions(), layout);
  Random random(2);
  const auto noise = [&](Index rows, Index cols) {
    return Matrix<double>(Matrix<double>::NullaryExpr(rows, cols, [&] { return random.normal(); }));
  };
  Vector<double> parameters = Vector<double>::Zero(layout.size());
  blocks.initialize(parameters, random);
  for (Index i = 0; i < parameters.size(); ++i) parameters[i] += 0.2 * random.normal();
  const Matrix<double> x = noise(40, 16), weights = noise(40, 16);
  auto cache = blocks.make_cache();
  const auto loss = [&](const Vector<double>& at) {
    blocks.prepare(at);
    blocks.input(cache) = x;
    return blocks.forward(at, nullptr, cache).cwiseProduct(weights).sum();
  };
  loss(parameters);
  Vector<double> gradients = Vector<double>::Zero(layout.size());
  Matrix<double> dy = weights;
  blocks.backward(parameters, cache, dy, gradients);
  EXPECT_EQ(layout.entries().front().name, "positions.gain");
  transformer::check_gradients(layout, parameters, gradients, loss);
}

TEST(Positions, StreamsEqualOnePassAndTheOrderMatters) {
  Model<float> model(model_with_positions());
  const Vector<float> parameters = transformer::noisy_parameters(model);
  model.prepare(parameters);
  std::vector<Token> tokens(300);
  Random random(5);
  for (Token& token : tokens) token = Token(random.below(256));
  auto cache = model.make_cache();
  model.forward(parameters, tokens.data(), 300, nullptr, cache);
  const Matrix<float> expected = cache.logits;
  auto state = model.make_state();
  Matrix<float> actual(300, 256);
  Index done = 0;
  for (const Index piece : {120, 1, 1, 90, 88}) {  // two pieces of one size, at different positions
    model.forward(parameters, tokens.data() + done, piece, &state, cache);
    actual.middleRows(done, piece) = cache.logits;
    done += piece;
  }
  EXPECT_LT((actual - expected).norm(), 1e-5f * expected.norm());
  EXPECT_EQ(state.position, 300);

  std::swap(tokens[3], tokens[200]);
  model.forward(parameters, tokens.data(), 300, nullptr, cache);
  EXPECT_GT((cache.logits.row(299) - expected.row(299)).norm(), 1e-3f * expected.row(299).norm());
}

TEST(Comparison, MatchesTheNumberOfParameters) {
  const auto parameters_of = [](const ModelConfig& config) { return layout_of(config).parameters(); };
  ModelConfig config = small_model(MixerKind::mamba);
  config.mlp_width = 0;
  config.layers = 5;
  const Index target = parameters_of(config);
  EXPECT_EQ(transformer::matching_layers(config, target + 100, parameters_of), 5);
  EXPECT_EQ(transformer::matching_layers(config, 1, parameters_of), 1);
  config = small_model(MixerKind::delta);
  EXPECT_EQ(transformer::matching_mlp_width(config, parameters_of(config), parameters_of), 24);
}

nlohmann::json finished(double rate, std::uint64_t seed, double validation, double test) {
  return {{"learning_rate", rate}, {"seed", seed}, {"validation_loss", validation}, {"test_loss", test}};
}

TEST(Comparison, ValidationChoosesTheRateAndTheTestIsReported) {
  // The rate 0.004 has the least test loss, 0.002 the least validation loss.
  const transformer::Runs runs = {finished(.001, 1, 1.30, 1.3), finished(.002, 1, 1.10, 1.2),
                                  finished(.002, 2, 1.14, 1.4), finished(.004, 1, 1.15, 1.0),
                                  finished(.001, 2, 1.30, 1.3), finished(.004, 2, 1.15, 1.0)};
  const transformer::AtChosenRate chosen = transformer::at_chosen_rate(runs);
  EXPECT_EQ(chosen.learning_rate, .002);
  EXPECT_EQ(chosen.rates, (std::vector<double>{.001, .002, .004}));
  EXPECT_FALSE(chosen.is_at_edge());
  EXPECT_EQ(transformer::numbers(chosen.runs, "test_loss", "validation_loss"), (std::vector<double>{1.2, 1.4}));
}

TEST(Comparison, ARateAtTheEdgeOfItsGridIsMarked) {
  const auto edge = [](double first, double second, double third) {
    return transformer::at_chosen_rate(
               {finished(.001, 1, first, 1), finished(.002, 1, second, 1), finished(.004, 1, third, 1)})
        .is_at_edge();
  };
  EXPECT_TRUE(edge(1.0, 1.1, 1.2));
  EXPECT_FALSE(edge(1.1, 1.0, 1.2));
  EXPECT_TRUE(edge(1.2, 1.1, 1.0));
  EXPECT_TRUE(transformer::at_chosen_rate({finished(.001, 1, 1, 1)}).is_at_edge());
}

TEST(Comparison, RatesAreComparedOverTheSeedsThatAllHave) {
  // Over all its seeds 0.002 is worse than 0.001; over the common one it is better.
  transformer::Runs runs = {finished(.001, 1, 1.2, 1), finished(.002, 1, 1.1, 1), finished(.002, 2, 1.5, 1),
                            finished(.002, 2, 0.1, 1)};
  transformer::AtChosenRate chosen = transformer::at_chosen_rate(runs);
  EXPECT_EQ(chosen.learning_rate, .002);
  EXPECT_EQ(transformer::numbers(chosen.runs, "validation_loss", "validation_loss"), (std::vector<double>{1.1, 1.5}));
  // A run whose loss was not finite is the worst; files have null for it.
  runs = {finished(.001, 1, 1.2, 1), finished(.002, 1, transformer::not_a_number, 1)};
  runs[1] = nlohmann::json::parse(runs[1].dump());
  EXPECT_TRUE(runs[1]["validation_loss"].is_null());
  EXPECT_EQ(transformer::at_chosen_rate(runs).learning_rate, .001);
}

TEST(Comparison, RunsOfEarlierVersionsHaveTheirOneLoss) {
  const nlohmann::json run = {{"validation_loss", 1.5}};
  EXPECT_EQ(transformer::number(run, "test_loss", "validation_loss"), 1.5);
}

// Against scipy.special.betainc, scipy.stats.t.ppf and scipy.stats.ttest_ind(equal_var=False), and closed forms.
TEST(Statistics, KnownValues) {
  using namespace transformer;
  EXPECT_NEAR(incomplete_beta(2, 3, 0.4), 0.5248, 1e-14);  // at least 2 of 4 at a probability of 0.4
  EXPECT_NEAR(incomplete_beta(50, 0.5, 0.99), 0.3173043978741973, 1e-12);
  EXPECT_NEAR(incomplete_beta(1.5, 0.5, 0.3), 0.07727428998754561, 1e-13);
  EXPECT_NEAR(incomplete_beta(10, 200, 0.05), 0.6013895619129598, 1e-12);
  EXPECT_EQ(incomplete_beta(2, 3, 0), 0);
  EXPECT_EQ(incomplete_beta(2, 3, 1), 1);
  for (const double t : {0.0, 0.3, 2.0, 40.0}) {
    EXPECT_NEAR(two_sided_p(t, 1), 1 - 2 / std::acos(-1.0) * std::atan(t), 1e-13) << t;
    EXPECT_NEAR(two_sided_p(-t, 2), 1 - t / std::sqrt(2 + t * t), 1e-13) << t;
  }
  EXPECT_NEAR(student_t_quantile(0.95, 1), 12.706204736174694, 1e-9);
  EXPECT_NEAR(student_t_quantile(0.95, 2), 4.302652729749462, 1e-10);
  EXPECT_NEAR(student_t_quantile(0.95, 2.5), 3.5746548420036817, 1e-10);
  EXPECT_NEAR(student_t_quantile(0.95, 30), 2.0422724563012378, 1e-10);
}

TEST(Statistics, IntervalAndWelchTest) {
  using namespace transformer;
  const std::vector<double> a = {1.07, 1.08, 1.06}, b = {1.10, 1.09, 1.12}, c = {2.1, 2.5, 2.2, 2.9},
                            d = {3.0, 3.1, 3.05};
  EXPECT_NEAR(standard_deviation(a), 0.01, 1e-14);
  EXPECT_NEAR(half_interval(a), 4.302652729749462 * 0.01 / std::sqrt(3.0), 1e-12);
  EXPECT_TRUE(std::isnan(half_interval({1.0})));
  WelchTest test = welch_test(a, b);
  EXPECT_NEAR(test.t, -3.1622776601683866, 1e-10);
  EXPECT_NEAR(test.freedom, 3.4482758620689653, 1e-10);
  EXPECT_NEAR(test.p, 0.04191451747145381, 1e-10);
  test = welch_test(c, d);
  EXPECT_NEAR(test.t, -3.434014098717224, 1e-10);
  EXPECT_NEAR(test.freedom, 3.153686223959416, 1e-10);
  EXPECT_NEAR(test.p, 0.03835141770832233, 1e-10);
  EXPECT_NEAR(welch_test(d, c).p, test.p, 1e-15);
  EXPECT_EQ(welch_test({1, 1}, {2, 2}).p, 0);
  EXPECT_TRUE(std::isnan(welch_test({1, 1}, {1, 1}).p));
  EXPECT_TRUE(std::isnan(welch_test({1}, {2, 3}).p));
}

}  // namespace
}  // namespace language_model
