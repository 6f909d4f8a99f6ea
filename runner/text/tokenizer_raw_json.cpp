// Hugging Face tokenizer.json files: byte-level BPE (GPT-2, Llama 3, Qwen), SentencePiece-style BPE (Llama 2,
// Mistral, Gemma: a Prepend and Replace normalizer or a Metaspace pre-tokenizer), and Unigram. Any component
// outside of them is an Error that names it. Source: tokenizers/src/{models,normalizers,pre_tokenizers,processors,
// decoders}/.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "system/error.h"
#include "text/byte_name.h"
#include "text/marked_text.h"
#include "text/normal_form.h"
#include "text/replacement.h"
#include "text/tokenizer_json_parts.h"
#include "text/tokenizer_raw.h"

namespace runner {
namespace {

using nlohmann::json;
using Vocabulary = std::unordered_map<std::string, uint32_t>;

constexpr std::string_view kBpe = "BPE", kUnigramType = "Unigram";

std::string checked_type(const json& model) {
  const std::string type = model.value("type", std::string(kBpe));
  if (type != kBpe && type != kUnigramType) {
    throw Error("tokenizer model '" + type + "' is not supported: BPE and Unigram are");
  }
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const json value = model.value(name, json());
    if (!value.is_null() && value != "" && value != 0) {
      throw Error("BPE option " + std::string(name) + " = " + value.dump() + " is not supported");
    }
  }
  return type;
}

uint32_t model_flags(const json& model, bool unigram) {
  uint32_t flags = unigram ? kUnigram | kFuseUnk : 0;
  for (const auto& [name, flag] : {std::pair{"fuse_unk", kFuseUnk},
                                   {"byte_fallback", kByteFallback},
                                   {"ignore_merges", kIgnoreMerges}}) {
    if (model.value(name, json()) == true) flags |= flag;
  }
  return flags;
}

// GPT-2's printable character of each byte, by code point. Source: openai/gpt-2 encoder.py.
std::unordered_map<std::string, char> byte_alphabet() {
  std::unordered_map<std::string, char> alphabet;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    const unsigned code = printable ? byte : next++;
    std::string text;
    if (code < 0x80) {
      text = {static_cast<char>(code)};
    } else {
      text = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    }
    alphabet.emplace(std::move(text), static_cast<char>(byte));
  }
  return alphabet;
}

// The bytes a piece's characters stand for; none where a character stands for none.
std::optional<std::string> from_alphabet(const std::unordered_map<std::string, char>& alphabet,
                                         const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const size_t size = static_cast<uint8_t>(text[i]) < 0x80 ? 1 : 2;
    const auto found = alphabet.find(text.substr(i, size));
    if (found == alphabet.end()) return std::nullopt;
    bytes += found->second;
    i += size;
  }
  return bytes;
}

// What an added token or a piece of the vocabulary is to BPE.
void set_piece(TableSource& table, const std::unordered_map<std::string, char>& alphabet,
               const std::string& text, uint32_t id) {
  table.pieces[id] = text;
  table.types[id] = PieceType::normal;
  if (table.flags & kByteUnits) {
    if (auto bytes = from_alphabet(alphabet, text)) {
      table.pieces[id] = *std::move(bytes);
    } else {
      table.types[id] = PieceType::unused;
    }
  } else if (const auto byte = named_byte(text); byte && table.flags & kByteFallback) {
    table.pieces[id] = {static_cast<char>(*byte)};
    table.types[id] = PieceType::byte;
  }
}

// An added token as it is looked for, but for spaces.
std::string looked_for(const AddedEntry& entry, const TableSource& table) {
  MarkedText text;
  text.append(entry.content, kMarkup);
  if (!entry.normalized) return text.text;
  const auto replace = [&](bool late) {
    for (const auto& replacement : table.replacements) {
      if (replacement.late == late) {
        text = Replacement(replacement.pattern, replacement.content).apply(text.view());
      }
    }
  };
  replace(/*late=*/false);
  if (table.flags & kNfc) text = compose(text.view(), table.normal_form);
  replace(/*late=*/true);
  return text.text;
}

void set_pieces(TableSource& table, const Vocabulary& vocab,
                const std::map<uint32_t, AddedEntry>& added) {
  uint64_t n_pieces = added.empty() ? 0 : uint64_t{added.rbegin()->first} + 1;
  for (const auto& [text, id] : vocab) n_pieces = std::max(n_pieces, uint64_t{id} + 1);
  if (n_pieces > 4 * (vocab.size() + added.size())) {
    throw Error("token id " + std::to_string(n_pieces - 1) + " is too large for " +
                std::to_string(vocab.size()) + " tokens");
  }
  table.pieces.resize(n_pieces);
  table.types.assign(n_pieces, PieceType::unused);
  const auto alphabet = byte_alphabet();
  for (const auto& [text, id] : vocab) set_piece(table, alphabet, text, id);
  for (const auto& [id, entry] : added) {
    const bool known = vocab.contains(entry.content);
    // A token that is no piece is decoded as what is looked for.
    if (!known) set_piece(table, alphabet, looked_for(entry, table), id);
    PieceType& type = table.types[id];
    if (entry.special) {
      table.pieces[id] = entry.content;
      type = PieceType::control;
    } else if (!known || type == PieceType::unused) {
      type = PieceType::user_defined;
    }
  }
}

uint32_t id_of(const Vocabulary& vocab, const std::string& text) {
  const auto found = vocab.find(text);
  if (found == vocab.end()) {
    throw Error("not a tokenizer.json, or a damaged one: '" + text + "' is not in the vocabulary");
  }
  return found->second;
}

void set_merges(TableSource& table, const json& merges, const Vocabulary& vocab) {
  for (const json& merge : merges) {
    std::string left, right;
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == text.npos || text.find(' ', space + 1) != text.npos) {
        throw Error("not a tokenizer.json, or a damaged one: merge '" + text + "'");
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else {
      merge.at(0).get_to(left);
      merge.at(1).get_to(right);
    }
    const uint32_t result = id_of(vocab, left + right);
    if (table.types[result] != PieceType::control) {
      table.merges.push_back({id_of(vocab, left), id_of(vocab, right), result});
    }
  }
}

std::vector<AddedEntry> listed_tokens(const json& entries) {
  std::vector<AddedEntry> listed;
  for (const json& entry : entries) {
    listed.push_back({entry.at("content").get<std::string>(), entry.at("special").get<bool>(),
                      entry.at("normalized").get<bool>(), entry.at("lstrip").get<bool>(),
                      entry.at("rstrip").get<bool>(), entry.at("single_word").get<bool>(),
                      entry.at("id").get<uint32_t>()});
  }
  return listed;
}

TableSource::Added added_token(uint32_t id, const AddedEntry& entry, const TableSource& table) {
  uint32_t added = kInText;
  if (entry.lstrip) added |= kLstrip;
  if (entry.rstrip) added |= kRstrip;
  if (entry.single_word) added |= kSingleWord;
  if (!entry.normalized) return {id, added, entry.content};
  std::string text = normalize_token(looked_for(entry, table), table.flags);
  if (text.empty()) {
    throw Error("added token '" + entry.content +
                "' is an empty text once it is normalized, which is not supported");
  }
  return {id, added | kNormalized, std::move(text)};
}

void set_special_ids(TableSource& table, const json& root, const Siblings& siblings,
                     const Vocabulary& vocab, const std::map<uint32_t, AddedEntry>& added) {
  const auto find = [&](const std::string& name) -> int32_t {
    for (auto token = added.rbegin(); token != added.rend(); ++token) {
      if (token->second.content == name) return static_cast<int32_t>(token->first);
    }
    const auto found = vocab.find(name);
    return found == vocab.end() ? -1 : static_cast<int32_t>(found->second);
  };
  const std::vector<std::string> prefix = prefix_of_post_processor(part(root, "post_processor"));
  table.bos_id = find(prefix.empty() ? siblings.bos_token : prefix[0]);
  table.eos_id = find(siblings.eos_token);
  bool add_bos = !prefix.empty();
  if (prefix.size() > 1) {
    table.flags |= kPrefixTokens;
    for (const std::string& name : prefix) {
      if (find(name) < 0) throw Error("post-processor TemplateProcessing names '" + name + "', which is no token");
      table.prefix.push_back(static_cast<uint32_t>(find(name)));
    }
  }
  for (const char* name : {"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer",
                           "CodeLlamaTokenizerFast"}) {
    if (siblings.tokenizer_class == name) add_bos = siblings.add_bos_token.value_or(add_bos);
  }
  if (add_bos && table.bos_id >= 0) table.flags |= kAddBos;
}

// Pieces' ids; and with `scores` what Unigram says of each.
Vocabulary read_vocabulary(const json& model, std::vector<double>* scores) {
  const json& vocab = model.at("vocab");
  if (!scores) return vocab.get<Vocabulary>();
  Vocabulary found;
  for (const json& entry : vocab) {
    const auto& text = entry.at(0).get_ref<const std::string&>();
    if (!found.emplace(text, static_cast<uint32_t>(found.size())).second) {
      throw Error("Unigram's piece '" + text + "' is there twice");
    }
    scores->push_back(entry.at(1).get<double>());
  }
  return found;
}

void set_unknown(TableSource& table, const json& model, const Vocabulary& vocab) {
  if (table.flags & kUnigram) {
    const json id = model.value("unk_id", json());
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= vocab.size()) {
      throw Error("Unigram option unk_id = " + id.dump() + " is none of the vocabulary's tokens");
    }
    table.unk_id = id.get<int32_t>();
  } else if (const json unk = model.value("unk_token", json()); !unk.is_null()) {
    const auto found = vocab.find(unk.get<std::string>());
    if (found == vocab.end()) {
      throw Error("BPE option unk_token = " + unk.dump() + " is none of the vocabulary's tokens");
    }
    table.unk_id = static_cast<int32_t>(found->second);
  } else {
    return;
  }
  PieceType& type = table.types[table.unk_id];
  if (type == PieceType::normal) type = PieceType::unknown;
}

// Tokens outside of the vocabulary get the lowest score, below which the unknown piece's lies.
void set_scores(TableSource& table, std::vector<double> scores) {
  if (scores.empty()) throw Error("not a tokenizer.json, or a damaged one: Unigram has no pieces");
  scores.resize(table.pieces.size(), *std::min_element(scores.begin(), scores.end()));
  table.scores = std::move(scores);
}

}  // namespace

RawTokenizer read_huggingface(const json& root, const Siblings& siblings) {
  const json& model = root.at("model");
  const bool unigram = checked_type(model) == kUnigramType;
  RawTokenizer out{.kind = "huggingface"};
  TableSource& table = out.table;
  Normalizer normal = normalizer(part(root, "normalizer"));
  PreTokenizer pre = pre_tokenizer(part(root, "pre_tokenizer"), normal.flags & kEscapeSpaces);
  table.flags = normal.flags | pre.flags | decoder_flags(part(root, "decoder")) | model_flags(model, unigram);
  check_flags(table.flags);
  table.splits = std::move(pre.splits);
  table.split_kinds = std::move(pre.kinds);
  table.replacements = std::move(normal.replacements);
  if (table.flags & kNfc) table.normal_form = library_normal_form();

  std::vector<double> scores;
  const Vocabulary vocab = read_vocabulary(model, unigram ? &scores : nullptr);
  const auto listed = listed_tokens(part(root, "added_tokens"));
  AddedIds added(vocab, vocab.size());
  added.add(listed);
  added.add(siblings.additions(listed));
  set_pieces(table, vocab, added.tokens());
  set_unknown(table, model, vocab);
  set_special_ids(table, root, siblings, vocab, added.tokens());
  if (unigram) {
    set_scores(table, std::move(scores));
  } else {
    set_merges(table, model.at("merges"), vocab);
  }
  for (const auto& [id, entry] : added.tokens()) {
    table.added.push_back(added_token(id, entry, table));
    out.added.push_back(entry);
  }
  return out;
}

}  // namespace runner
