#include "runner/run.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <random>

#include "runner/chat_loop.h"
#include "runner/error.h"
#include "runner/generate.h"
#include "runner/interrupt.h"
#include "runner/model.h"
#include "runner/npy.h"
#include "runner/output.h"
#include "runner/stats.h"
#include "runner/text_stream.h"
#include "runner/tokenize_lines.h"
#include "runner/tokenizer.h"

namespace runner {
namespace {

void say(std::string_view line) { write_text(stderr, std::string(line) + "\n"); }

std::string counted(int64_t count, const char* noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

Tokenizer make_tokenizer(const Args& args, const Model& model) {
  if (args.tokenizer_path.empty())
    return Tokenizer::from_table(std::string(model.tokenizer_table()));
  Tokenizer tokenizer = Tokenizer::from_file(args.tokenizer_path);
  const int64_t vocab_size = model.metadata().vocab_size;
  // An added token beyond it is refused where a prompt holds it.
  if (!args.tokenize && tokenizer.n_text_pieces() > vocab_size) {
    throw Error("the tokenizer " + args.tokenizer_path + " has " +
                std::to_string(tokenizer.n_pieces()) +
                " pieces, more than the model's vocabulary of " + std::to_string(vocab_size) +
                "; give the tokenizer that belongs to the model");
  }
  return tokenizer;
}

void check_llama_version(const Args& args, const Tokenizer& tokenizer) {
  if (!args.llama_version) return;
  const int actual = tokenizer.byte_level() ? 3 : 2;
  if (*args.llama_version == actual) return;
  throw Error("-l " + std::to_string(*args.llama_version) + " does not fit " + args.model_path +
              ", whose vocabulary is of " +
              (actual == 3 ? "Llama 3's kind (byte-level)" : "Llama 2's kind (SentencePiece)") +
              "; give -l " + std::to_string(actual) + " or leave it out");
}

// The ids that end generation: the artifact's, and the end-of-text token of a tokenizer that was
// given instead of the artifact's own.
std::vector<int32_t> stop_ids(const Args& args, const Metadata& metadata,
                              const Tokenizer& tokenizer) {
  if (args.ignore_eos) return {};
  std::vector<int32_t> ids(metadata.stop_ids.begin(), metadata.stop_ids.end());
  if (!args.tokenizer_path.empty() && tokenizer.eos_id() >= 0) {
    ids.push_back(tokenizer.eos_id());
  }
  return ids;
}

const char* words_for(StopReason reason) {
  switch (reason) {
    case StopReason::stop_token:
      return "a stop token";
    case StopReason::stop_string:
      return "a stop string";
    case StopReason::steps:
      return "the number of steps";
    case StopReason::context:
      return "the end of the context";
    case StopReason::interrupted:
      return "an interrupt";
  }
  return "";
}

// One run of a program: the parts that its modes share.
class Run {
 public:
  Run(const Args& args, std::chrono::steady_clock::time_point start)
      : args_(args),
        load_start_(std::chrono::steady_clock::now()),
        model_(
            load_model(args.model_path, {.threads = args.threads, .metadata_only = args.tokenize})),
        tokenizer_(make_tokenizer(args, *model_)),
        settings_(chosen_settings(args, model_->metadata().sampling)) {
    check_llama_version(args, tokenizer_);
    stats_.start = start;
    stats_.load_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - load_start_).count();
    stats_.threads = model_->threads();
    stats_.isa = model_->isa();
  }

  void tokenize() const { tokenize_lines(tokenizer_, std::cin, stdout); }

  void chat() {
    Session session(*model_, args_.prefill_chunk);
    Sampler sampler = make_sampler();
    ChatOptions options{.system_prompt = args_.system_prompt,
                        .first_turn = args_.prompt,
                        .generate = generate_options(),
                        .stop_strings = stop_strings()};
    const ChatIo io{.read_turn = read_turn,
                    .write = [](std::string_view text) { write_text(stdout, text); },
                    .notice = say};
    run_chat(session, sampler, tokenizer_, ChatFormat::from_json(metadata().chat), options, io,
             stats_);
  }

  void generate_text() {
    const std::vector<int32_t> prompt = prompt_tokens();
    Session session(*model_, args_.prefill_chunk);
    GenerateOptions options = generate_options();
    std::unique_ptr<NpyWriter> logits;
    session.check(prompt);  // before anything is written
    if (!args_.logits_path.empty()) {
      logits =
          std::make_unique<NpyWriter>(args_.logits_path, std::ssize(prompt), metadata().vocab_size);
      options.every_prompt_row = [&](std::span<const float> row) { logits->write_row(row); };
    }
    options.prompt_only = logits && !args_.steps;

    TextStream text(tokenizer_, stop_strings(), prompt, TextStream::Start::inside);
    Sampler sampler = make_sampler();
    if (!options.prompt_only && args_.prompt) write_text(stdout, *args_.prompt);
    const GenerateResult result = generate(session, sampler, prompt, options, [&](int32_t token) {
      stats_.note_token();
      write_text(stdout, text.push(token));
      return !text.stopped();
    });
    stats_.add(result);
    if (!options.prompt_only) write_text(stdout, text.finish() + "\n");
    if (logits && result.reason != StopReason::interrupted) logits->commit();
    if (args_.verbose && !options.prompt_only)
      say(std::string("ended by ") + words_for(result.reason));
  }

  void report() const {
    if (!args_.stats) return;
    const int64_t peak = peak_rss_bytes();
    say(args_.json ? stats_json(stats_, peak) : stats_line(stats_, peak));
  }

  void describe() const {
    if (!args_.verbose) return;
    const Metadata& m = metadata();
    say(m.model_name + " (" + m.model_family + "), " + m.dtype + ", " +
        counted(m.n_layers, "layer") + ", vocabulary " + std::to_string(m.vocab_size) +
        ", context " + std::to_string(m.context_length) + ", " + counted(stats_.threads, "thread") +
        ", quantization " + m.quantization);
  }

 private:
  const Metadata& metadata() const { return model_->metadata(); }

  Sampler make_sampler() const {
    const uint64_t seed = args_.seed ? *args_.seed : std::random_device()();
    check_tokens(settings_, metadata().vocab_size);
    if (args_.verbose) say("sampling: " + flags_of(settings_) + " -s " + std::to_string(seed));
    return Sampler(settings_, seed);
  }

  std::vector<std::string> stop_strings() const {
    return settings_.stop_strings.value_or(std::vector<std::string>());
  }

  GenerateOptions generate_options() const {
    return {.steps = args_.steps.value_or(0),
            .stop_ids = stop_ids(args_, metadata(), tokenizer_),
            .interrupted = interrupted};
  }

  std::vector<int32_t> prompt_tokens() const {
    if (args_.tokens) return *args_.tokens;
    std::vector<int32_t> ids = tokenizer_.encode(args_.prompt.value_or(""), tokenizer_.add_bos(),
                                                 Tokenizer::Special::parse);
    if (!ids.empty()) return ids;
    if (tokenizer_.bos_id() < 0) {
      throw UsageError(
          "the prompt is empty and this model has no token to begin a text with; give "
          "a prompt with -i");
    }
    return {tokenizer_.bos_id()};
  }

  static std::optional<std::string> read_turn() {
    if (isatty(STDIN_FILENO)) write_text(stderr, "> ");
    std::string line;
    if (!std::getline(std::cin, line) || interrupted()) return std::nullopt;
    return line;
  }

  const Args& args_;
  std::chrono::steady_clock::time_point load_start_;
  std::unique_ptr<Model> model_;
  Tokenizer tokenizer_;
  SamplingSettings settings_;
  Stats stats_;
};

}  // namespace

void run(const Args& args, std::chrono::steady_clock::time_point start) {
  Run run(args, start);
  if (args.tokenize) return run.tokenize();
  run.describe();
  if (args.mode == Mode::chat) {
    run.chat();
  } else {
    run.generate_text();
  }
  run.report();
}

}  // namespace runner
