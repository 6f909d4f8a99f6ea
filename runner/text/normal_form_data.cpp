#include <algorithm>
#include <cstdint>
#include <iterator>
#include <tuple>

#include "text/normal_form.h"

namespace runner {
namespace {

constexpr uint8_t kData[] = {
#include "text/normal_form_data.inc"
};

// Reads the numbers of normal_form_data.inc, which says what they are.
class Numbers {
 public:
  bool left() const { return at_ != std::end(kData); }

  uint32_t next() {
    uint32_t value = 0;
    for (int shift = 0;; shift += 7) {
      const uint8_t byte = *at_++;
      value |= uint32_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  }

 private:
  const uint8_t* at_ = std::begin(kData);
};

}  // namespace

NormalForm library_normal_form() {
  NormalForm form;
  Numbers numbers;
  uint32_t code = 0, first = 0;
  for (uint32_t step; (step = numbers.next()) != 0;) {
    code += step;
    const uint32_t change = numbers.next(), second = numbers.next();
    first += change & 1 ? 0 - change / 2 : change / 2;
    form.decompositions.push_back({code, first, second / 2});
    if (second & 1) form.compositions.push_back({first, second / 2, code});
  }
  std::sort(form.compositions.begin(), form.compositions.end(), [](const Triple& a, const Triple& b) {
    return std::tie(a.a, a.b) < std::tie(b.a, b.b);
  });
  for (uint32_t last = 0; numbers.left();) {
    const uint32_t begin = last + numbers.next();
    last = begin + numbers.next();
    form.classes.push_back({last, begin, numbers.next()});
  }
  return form;
}

}  // namespace runner
