#include "app/run.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <random>

#include "app/chat_loop.h"
#include "app/line_input.h"
#include "app/prompt_text.h"
#include "app/self_test_report.h"
#include "app/stats.h"
#include "app/tokenize_lines.h"
#include "app/words.h"
#include "decode/conversation.h"
#include "decode/self_test.h"
#include "model/model.h"
#include "model/signed_files.h"
#include "system/crash_line.h"
#include "system/error.h"
#include "system/interrupt.h"
#include "system/npy.h"
#include "system/output.h"
#include "system/peak_memory.h"
#include "system/read_ahead.h"
#include "text/chat_wishes.h"
#include "text/printable.h"
#include "text/tokenizer.h"

namespace runner {
namespace {

constexpr int kInterrupted = 130;  // the exit status after an interrupt

// Writes text of one or several lines for a person.
void say(std::string_view text) {
  std::string lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines += printable(text.substr(0, end)) + "\n";
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  write_text(stderr, lines);
}

void say_that_input_is_awaited() {
  say("reading the prompt from standard input; give one with -i or -f, or < /dev/null for none");
}

// The prompt's text, wherever the command line says that it is.
std::optional<std::string> prompt_text(const Args& args) {
  if (!args.prompt_path.empty()) return prompt_from_file(args.prompt_path);
  if (args.prompt) {
    std::error_code unknown;
    if (args.prompt->starts_with('@') && std::filesystem::exists(args.prompt->substr(1), unknown)) {
      say("-i " + *args.prompt + " is the text itself; -f " + args.prompt->substr(1) +
          " reads the file");
    }
    return args.prompt;
  }
  if (args.tokens || args.mode == Mode::chat) return std::nullopt;
  return prompt_from_stdin(say_that_input_is_awaited);
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

// Another one each time. An empty root has no device for it.
uint64_t new_seed() {
  try {
    return std::random_device()();
  } catch (const std::exception&) {
    return static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  }
}

// Reads a model that lies on a slow disk in order, and says how far it is.
void read_model_ahead(const std::string& path) {
  constexpr std::chrono::seconds kPause(2);
  auto next = std::chrono::steady_clock::now() + kPause;
  read_ahead(path, [&](double part) {
    if (std::chrono::steady_clock::now() >= next) {
      say("reading " + path + ": " + std::to_string(static_cast<int>(100 * part)) + " %");
      next = std::chrono::steady_clock::now() + kPause;
    }
    return !interrupted();
  });
}

// One run of a program: the parts that its modes share.
class Run {
 public:
  Run(const Args& args, std::optional<std::string> prompt,
      std::chrono::steady_clock::time_point start)
      : args_(args),
        prompt_(std::move(prompt)),
        load_start_(std::chrono::steady_clock::now()),
        model_(load(args)),
        tokenizer_(make_tokenizer(args, *model_)),
        settings_(chosen_settings(args, model_->metadata().sampling)) {
    if (!args.tokenize && !args.self_test) {
      state_ = model_->make_state(
          {.context_length = args.context_length, .cache_type = args.cache_type});
    }
    check_llama_version(args, tokenizer_);
    stats_.start = start;
    stats_.load_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - load_start_).count();
    stats_.threads = model_->threads();
    stats_.isa = model_->isa();
  }

  // Returns the exit status. The report goes to standard output: there is no other.
  int self_test() {
    const SelfTest test = run_self_test(*model_, tokenizer_, interrupted);
    if (interrupted()) return kInterrupted;
    const TestedOn machine{args_.model_path, stats_.isa, stats_.threads, peak_rss_bytes()};
    write_text(stdout, (args_.json ? self_test_json : self_test_lines)(test, machine));
    return test.wrong.empty() ? 0 : 1;
  }

  void tokenize() const { tokenize_lines(tokenizer_, std::cin, stdout); }

  // Returns the exit status.
  int chat() {
    LineInput input;
    Conversation conversation = make_conversation();
    Sampler sampler = make_sampler();
    const ChatTemplate chat = ChatTemplate::from_json(metadata().chat);
    ChatOptions options{.system_prompt = args_.system_prompt,
                        .first_turn = prompt_,
                        .generate = generate_options(),
                        .stop_strings = stop_strings(),
                        .inputs = chat_inputs(chat),
                        .dims_thoughts = isatty(STDOUT_FILENO) != 0};
    const ChatIo io{.read_line = [&](bool within) -> std::optional<std::string> {
                      auto line = input.read(within);
                      return interrupted() ? std::nullopt : line;
                    },
                    .write = [](std::string_view text) { write_text(stdout, text); },
                    .notice = say,
                    .forget_interrupt = forget_interrupt};
    const ChatResult result =
        run_chat(conversation, sampler, tokenizer_, chat, options, io, stats_);
    // A person at a terminal sees that a reply was ended, a script's reader does not.
    if (interrupted() || (result.interrupted && !input.is_terminal())) return kInterrupted;
    return result.refused ? 1 : 0;
  }

  // Returns the exit status.
  int generate_text() {
    const std::vector<int32_t> prompt = prompt_tokens();
    Conversation conversation = make_conversation();
    ReplyOptions options{generate_options(), stop_strings()};
    GenerateOptions& generate = options.generate;
    std::unique_ptr<NpyWriter> logits;
    conversation.check(prompt);  // before anything is written
    if (!args_.logits_path.empty()) {
      logits =
          std::make_unique<NpyWriter>(args_.logits_path, std::ssize(prompt), metadata().vocab_size);
      generate.every_prompt_row = [&](std::span<const float> row) { logits->write_row(row); };
    }
    generate.prompt_only = logits && !args_.steps;

    Sampler sampler = make_sampler();
    if (!generate.prompt_only && prompt_) write_text(stdout, *prompt_);
    const Reply reply =
        conversation.reply(prompt, sampler, options,
                           {[this](int32_t) { stats_.note_token(); },
                            [](const std::string& text) { write_text(stdout, text); }});
    const GenerateResult& result = reply.counts;
    stats_.add(result);
    if (!generate.prompt_only) write_text(stdout, "\n");
    if (logits && result.reason != StopReason::interrupted) logits->commit();
    if (args_.verbose && !generate.prompt_only)
      say(std::string("ended by ") + words_for(result.reason));
    return interrupted() ? kInterrupted : 0;
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
        ", context " + std::to_string((*state_)->options().context_length) + ", " + counted(stats_.threads, "thread") +
        ", quantization " + m.quantization);
  }

 private:
  static std::unique_ptr<Model> load(const Args& args) {
    if (!args.tokenize && !args.own_model) read_model_ahead(args.model_path);
    return load_model(args.model_path, {.threads = args.threads, .metadata_only = args.tokenize});
  }

  const Metadata& metadata() const { return model_->metadata(); }

  Conversation make_conversation() const {
    return {Session(*model_, state_, args_.prefill_chunk), tokenizer_};
  }

  Sampler make_sampler() const {
    const uint64_t seed = args_.seed ? *args_.seed : new_seed();
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

  // What the command line tells the template. Throws Error for what it does not take.
  ChatInputs chat_inputs(const ChatTemplate& chat) const {
    ChatWishes wishes{
        .think = args_.think, .date = args_.date, .tools = std::nullopt, .tools_path = args_.tools_path};
    if (chat.usable() && !args_.tools_path.empty()) {
      wishes.tools = text_from_file(args_.tools_path, "the file of tools " + args_.tools_path, kToolsRemedy);
    }
    return inputs_of(wishes, chat);
  }

  std::vector<int32_t> prompt_tokens() const {
    if (args_.tokens) return *args_.tokens;
    std::vector<int32_t> ids = tokenizer_.encode(prompt_.value_or(""), tokenizer_.add_bos(),
                                                 Tokenizer::Special::parse);
    if (!ids.empty()) return ids;
    if (tokenizer_.bos_id() < 0) {
      throw UsageError(
          "the prompt is empty and this model has no token to begin a text with; give "
          "a prompt with -i or -f");
    }
    return {tokenizer_.bos_id()};
  }

  const Args& args_;
  std::optional<std::string> prompt_;
  std::chrono::steady_clock::time_point load_start_;
  std::unique_ptr<Model> model_;
  Tokenizer tokenizer_;
  SamplingSettings settings_;
  std::shared_ptr<OwnedState> state_;  // none to tokenize and to test
  Stats stats_;
};

}  // namespace

int run(const Args& args, std::chrono::steady_clock::time_point start) {
  if (!args.key_path.empty()) check_signed(args.model_path, args.key_path);
  const std::string activity = "running " + printable(args.model_path);
  if (args.tokenize) {
    const Run run(args, std::nullopt, start);
    set_crash_activity(activity);
    run.tokenize();
    return interrupted() ? kInterrupted : 0;
  }
  if (args.self_test) {
    Run run(args, std::nullopt, start);
    set_crash_activity("testing " + printable(args.model_path));
    return run.self_test();
  }
  auto prompt = prompt_text(args);  // before a large model is loaded
  if (interrupted()) return kInterrupted;
  Run run(args, std::move(prompt), start);
  set_crash_activity(activity);
  run.describe();
  const int status = args.mode == Mode::chat ? run.chat() : run.generate_text();
  run.report();
  return status;
}

}  // namespace runner
