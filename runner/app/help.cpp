#include <algorithm>
#include <string>

#include "app/args.h"
#include "app/turn_input.h"
#include "model/metadata.h"
#include "model/sampling_settings.h"

namespace runner {
namespace {

// A row for each setting that is a number: "  -p, --top-p P             keep the likeliest ...".
std::string number_rows() {
  constexpr size_t kColumn = 28;
  std::string rows;
  for (const NumberSetting& setting : number_settings()) {
    const std::string brief = *setting.short_flag ? std::string(setting.short_flag) + ", " : "    ";
    std::string row = "  " + brief + setting.flag() + " " + setting.placeholder;
    if (row.size() + 2 > kColumn) row += "\n";
    const size_t line = row.ends_with('\n') ? 0 : row.size();
    rows += row + std::string(kColumn - line, ' ') + setting.help + "\n";
  }
  return rows;
}

// Each line moved in by two blanks.
std::string indented(std::string_view text) {
  std::string lines = "  ";
  for (const char c : text) {
    lines += c;
    if (c == '\n') lines += "  ";
  }
  return lines;
}

}  // namespace

std::string help_text(std::string_view program, std::string_view backend, bool own_model) {
  const bool aoti = backend == kAotiBackend;
  std::string text = "Usage: " + std::string(program);
  if (own_model) {
    text += " [flags]\nRuns the language model that is in this program.\n";
  } else {
    text += std::string(aoti ? " MODEL.pt2|MODEL.so" : " MODEL.pte") + " [flags]\n" +
            "Runs a language model exported for " + (aoti ? "AOTInductor" : "ExecuTorch") + ".\n";
  }
  text += R"(
Text
  -i, --prompt TEXT         prompt; in chat the first turn
  -f, --prompt-file FILE    the same from a UTF-8 text file, of any size. Without either the
                            prompt is all of standard input; where that is a terminal or empty,
                            generation starts from the model's beginning-of-text token
  -m, --mode MODE           generate (default): the prompt, then its continuation
                            chat: turns read from standard input (see Chat)
  -y, --system-prompt TEXT  system prompt, with -m chat
      --think on|off        let a model think that can do without, or not, with -m chat
                            (default: as its template has it)
      --tools FILE          a JSON list of the tools that the model may call, with -m chat
      --date 2024-07-26     the day that the model is told, with -m chat (default: the clock's)
  -n, --steps N             most tokens to generate (a turn); 0: up to the context's end
                            (default 0)
      --ignore-eos          go on after a stop token
      --tokens 1,2,3        the prompt as token ids; only the continuation is printed

Sampling (defaults: what the model recommends; where it is silent -t 0.8 -p 0.9)
)" + number_rows() +
          R"(  -s, --seed N              the same seed gives the same text (default: a new one)
      --logit-bias ID=B,... add B to the logit of token ID, -inf: never choose it; several times
      --stop TEXT           end before this text, several times; '' alone: none of the model's

Chat
)" + indented(kTurnHelp) + R"(
  /help lists the commands: /clear /system /save /load /exit. Ctrl-C ends a reply, of which
  the part that was written stays in the conversation; at the prompt it ends the chat, and a
  second one ends the program.

Tokenizer
  -z, --tokenizer FILE      use this raw tokenizer.model, tokenizer.json or tekken.json
                            instead of the embedded one
      --tokenize            standard input, one text a line, to one JSON list of ids a line
  -l, --llama-version 2|3   check that the vocabulary is Llama 2's kind (SentencePiece) or
                            Llama 3's (byte-level); otherwise unused

Running
      --threads N           threads, 1 to 256 (default: OMP_NUM_THREADS where it is set, else
                            the performance cores this program may use)
      --max-seq-length N    most tokens of prompt and text together, up to what the model was made
                            for (default: the artifact's)
      --cache-dtype TYPE    of the KV cache: auto (default: the artifact's), fp32, fp16, int8
                            or int4; smaller types take less memory and time in long contexts,
                            and int4 costs quality
      --prefill-chunk N     most prompt tokens in one step (default: the artifact's limit)
      --logits-out F.npy    write float32 logits [positions, vocabulary], one row a prompt
                            position; generates nothing unless -n is given
      --require-signature KEY
                            run the model only if the minisign public key in the file KEY signed it,
                            by MODEL.minisig beside it, or in a bundle every file of it, by its
                            MANIFEST.json.minisig
      --self-test           compare what this machine computes with what was stored at export:
                            token ids of texts and conversations and, on our operators, the bits
                            of logits; says what was compared and how fast it ran
      --stats               a line of statistics on standard error
      --json                with --stats or --self-test: one JSON object; first_token_seconds counts from
                            the program's start; a rate with nothing to measure is null
  -v, --verbose             what was loaded and why generation ended, on standard error
  -h, --help                this text

A short flag's value may be attached (-t0.5), a long one's follow '=' (--top-p=0.9).
Text goes to standard output, all else to standard error.
Exit status: 0; 2 when the command line is wrong; 1 when a file is missing, damaged or unfit,
running or the self-test fails or a chat had to refuse a turn or a command; 130 after an interrupt (a reply
ended in a chat at a terminal is none).
)";
  if (own_model) {  // which is no file that a signature could lie beside
    const size_t start = text.find("      --require-signature"), end = text.find("      --self-test");
    text.erase(start, end - start);
  }
  return text;
}

}  // namespace runner
