// SPDX-License-Identifier: MIT
//
// Runs: the same numbers for any number of threads and after a resume, checkpoints, sampling, and the counting models.

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
#include "transformer/quoting.hpp"
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
        {"mixer.forget.rate", {2}},       {"mixer.output.weight", {16, 16}}};
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
  const auto bins = evaluator.by_position(parameters, 200, 2);
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
  EXPECT_TRUE(evaluator.by_position(parameters, text.held_out(), 2).empty());
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

}  // namespace
}  // namespace language_model
