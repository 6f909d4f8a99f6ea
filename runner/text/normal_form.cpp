#include "text/normal_form.h"

#include <algorithm>
#include <tuple>

#include "text/utf8.h"

namespace runner {
namespace {

// Hangul syllables, which are computed, and their parts' first numbers.
constexpr uint32_t kS = 0xAC00, kL = 0x1100, kV = 0x1161, kT = 0x11A7;
constexpr uint32_t kNL = 19, kNV = 21, kNT = 28, kNS = kNL * kNV * kNT;

struct Character {
  uint32_t code;
  uint32_t combining_class;
  char kind;  // kMarkup or kContent
};

// The first triple that is not before (a, b); null where there is none.
const Triple* search(const std::vector<Triple>& triples, uint32_t a, uint32_t b) {
  const auto found = std::lower_bound(triples.begin(), triples.end(), std::pair(a, b),
                                      [](const Triple& triple, std::pair<uint32_t, uint32_t> key) {
                                        return std::pair(triple.a, triple.b) < key;
                                      });
  return found == triples.end() ? nullptr : &*found;
}

class Composer {
 public:
  explicit Composer(const NormalForm& form) : form_(form) {}

  void add(uint32_t code, char kind) {
    if (code - kS < kNS) {
      const uint32_t index = code - kS, last = index % kNT;
      push(kL + index / kNT / kNV, kind);
      push(kV + index / kNT % kNV, kind);
      if (last) push(kT + last, kind);
      return;
    }
    // What a character becomes first may go on becoming others: three times in Unicode.
    uint32_t after[8];
    size_t n_after = 0;
    for (size_t i = 0; i < std::size(after); ++i) {
      const Triple* parts = search(form_.decompositions, code, 0);
      if (!parts || parts->a != code) break;
      code = parts->b;
      if (parts->c) after[n_after++] = parts->c;
    }
    push(code, kind);
    while (n_after > 0) push(after[--n_after], kind);
  }

  MarkedText finish() {
    order();
    join();
    MarkedText out;
    for (const Character& character : characters_) {
      const size_t before = out.text.size();
      append_utf8(out.text, character.code);
      out.markup.append(out.text.size() - before, character.kind);
    }
    return out;
  }

 private:
  void push(uint32_t code, char kind) {
    const Triple* range = search(form_.classes, code, 0);
    characters_.push_back({code, range && range->b <= code ? range->c : 0, kind});
  }

  // Sorts the characters that combine between two that do not, by their classes.
  void order() {
    std::vector<Character> run;
    for (size_t begin = 0, end; begin < characters_.size(); begin = end + 1) {
      end = begin;
      bool sorted = true;
      for (uint32_t last = 0; end < characters_.size() && characters_[end].combining_class; ++end) {
        sorted = sorted && last <= characters_[end].combining_class;
        last = characters_[end].combining_class;
      }
      if (sorted) continue;
      run.assign(&characters_[begin], &characters_[begin] + (end - begin));
      size_t at = begin;
      for (uint32_t wanted = 1; wanted <= kMaxCombiningClass; ++wanted) {
        for (const Character& character : run) {
          if (character.combining_class == wanted) characters_[at++] = character;
        }
      }
    }
  }

  // Joins each character to the last one of class 0 where none between blocks it.
  void join() {
    Character* starter = nullptr;
    uint32_t before = 0;  // the class of the character before
    size_t size = 0;
    for (const Character& character : characters_) {
      if (starter && (before == 0 || before < character.combining_class)) {
        if (const uint32_t composed = pair(starter->code, character.code)) {
          starter->code = composed;
          starter->kind &= character.kind;
          continue;
        }
      }
      before = character.combining_class;
      characters_[size] = character;
      if (before == 0) starter = &characters_[size];
      ++size;
    }
    characters_.resize(size);
  }

  // What the two become together; 0 for nothing.
  uint32_t pair(uint32_t first, uint32_t second) const {
    if (first - kL < kNL && second - kV < kNV) return kS + ((first - kL) * kNV + second - kV) * kNT;
    if (first - kS < kNS && (first - kS) % kNT == 0 && second - kT - 1 < kNT - 1) {
      return first + second - kT;
    }
    const Triple* found = search(form_.compositions, first, second);
    return found && found->a == first && found->b == second ? found->c : 0;
  }

  const NormalForm& form_;
  std::vector<Character> characters_;
};

}  // namespace

MarkedText compose(MarkedView text, const NormalForm& form) {
  Composer composer(form);
  for (size_t at = 0, size; at < text.text.size(); at += size) {
    size = utf8_length(text.text.substr(at));
    composer.add(code_point(text.text.substr(at, size)), text.markup[at]);
  }
  return composer.finish();
}

}  // namespace runner
